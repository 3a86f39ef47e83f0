"""What each command of `usb-active` does."""
