"""Task families: every module and package here is one, except the packages that families share."""

SHARED = ("openmmlab",)
