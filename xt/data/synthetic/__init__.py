"""Synthetic scenes in the folder format of xView3."""
