"""The only room that imports semilearn. Its ways (version 0.3.2) are worked round here and nowhere else."""

from usb_active.environment.import_guard import BrokenInstall, explain

try:
    # First of all imports of it: guarded, see `usb_active.environment.import_guard`.
    import semilearn  # noqa: F401
except ModuleNotFoundError as error:
    # Not installed at all, which the guard cannot see; what it sees it has explained.
    raise BrokenInstall(explain(error)) from error
