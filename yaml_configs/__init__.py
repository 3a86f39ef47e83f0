"""Configurations that come with the package: `usb-active run NAME` finds them from anywhere."""
