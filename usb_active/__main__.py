"""`python -m usb_active` is `usb-active`."""

import sys

from usb_active.cli import main

if __name__ == "__main__":
    sys.exit(main())
