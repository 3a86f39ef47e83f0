"""`python -m usb_active` is `usb-active`."""

import sys

from usb_active.cli import main
from usb_active.environment.working_directory import prefer_installed_semilearn

if __name__ == "__main__":
    prefer_installed_semilearn()
    sys.exit(main())
