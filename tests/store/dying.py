"""An object storage whose client ends before one of its requests."""

from __future__ import annotations

from store.io.remote import Remote

CHANGES = ("put", "copy", "rename", "delete")


class Killed(BaseException):
    """The process would be gone; no handler of the program catches this."""


class Dying(Remote):
    """A remote location whose process ends after so many requests that changed something."""

    def __init__(self, url, *, after, spent=None):
        super().__init__(url)
        self._after, self._spent = after, spent if spent is not None else [0]

    @property
    def _store(self):
        return _Counted(super()._store, self)

    def below(self, prefix):
        return Dying(super().below(prefix).uri, after=self._after, spent=self._spent)


class _Counted:
    def __init__(self, store, location):
        self._inner, self._location = store, location

    def __getattr__(self, name):
        if name in CHANGES:
            if self._location._spent[0] >= self._location._after:
                raise Killed(name)
            self._location._spent[0] += 1
        return getattr(self._inner, name)
