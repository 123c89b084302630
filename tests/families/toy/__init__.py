"""A third family as a newcomer would write it: tests plant this folder as raylora/families/toy."""
