"""Everything on Amazon S3, or what speaks like it and can put an object only if there is none."""
