"""The process sandbox provider: agent servers as processes of this host, for where there is no container engine.

A sandbox is a directory of its own, a small keeper process, and what the keeper starts and keeps together. This package
itself imports nothing: the keeper, which is made of `__main__`, `keeper`, `birth`, `proc`, `trees`, `groups`,
`cgroups`, `records` and `output`, runs on the standard library alone and is to stay small. The provider is `provider`;
`sandboxes` are its calls, `following` and `watching` what it hears.
"""
