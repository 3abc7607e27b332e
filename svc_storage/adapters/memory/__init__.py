"""Storage that forgets: every port over plain objects. The fake of the tests, under the same contract suite as the real ones."""
