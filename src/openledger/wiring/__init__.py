"""The composition root: settings become a wired platform."""
