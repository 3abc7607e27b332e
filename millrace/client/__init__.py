"""The Python client: an async core that survives breaks, and a blocking face for programs.

Programs: `from millrace import connect`. Services use the core: `channel.Connection` around any channel, then `append.Appender`,
`read`, `watch`, `resources`, `leases`, `runs`, `query`, `subscribe`.
"""
