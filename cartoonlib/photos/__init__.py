"""A photo or film of your own, of any size, as a cartoon."""
