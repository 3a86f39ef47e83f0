"""The methods, one folder each. Installed as `usb_active.plugins`."""
