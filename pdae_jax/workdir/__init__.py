"""The one owner of the disk."""
