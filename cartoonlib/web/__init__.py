"""The generators as a page that draws in its reader's browser."""
