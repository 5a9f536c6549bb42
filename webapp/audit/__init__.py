"""Who did what, when and from where: written with each deed, never changed."""
