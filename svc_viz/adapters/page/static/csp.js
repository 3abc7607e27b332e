// BokehJS makes <style> elements; under our policy they need the page's nonce. Loaded before it.
(() => {
  const nonce = document.currentScript.nonce;
  const plain = Document.prototype.createElement;
  Document.prototype.createElement = function (name, options) {
    const made = plain.call(this, name, options);
    if (String(name).toLowerCase() === "style") made.nonce = nonce;
    return made;
  };
})();
