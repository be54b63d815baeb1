"""Devices: how one is named, reached and timed on.

Everything goes through TVM's RPC. TVM brings a tracker, a server and a runner, which are made for a
tuning run that somebody watches. A search runs for hours on boards that crash, hang and lose their
power, and it must not mistake a device's failure for a schedule's. Each of our parts adds what that
takes:

- `rpc_server`, instead of `tvm.rpc.Server`: TVM's server stops listening when a session dies of a
  signal. Ours forks a process for each session, so a crash costs that session alone. It ends a
  session whose client hung up, removes its files, and registers again when the tracker returns.
- `tracker_client`, instead of `tvm.rpc.connect_tracker`: TVM's client waits for a device without a
  limit. Here every wait ends, and reading a device's name loads no tvm.
- `tcp_proxy`: TVM's client waits for answers in C++, where no time limit reaches it. The proxy is a
  process between both sides that can be killed, so a silent board blocks nobody.
- `rpc_session`: keeps one session on each device and replaces it at the first sign of trouble.
  TVM's `RPCRunner` asks the tracker for a new session for every trial.
- `base`, instead of `LocalRunner` and `RPCRunner`: an error is the value of its trial and
  says whether the program or the device failed. A lost trial is repeated, samples that spread are
  taken again, and devices of one key share the work.
- `drift`: TVM trusts every sample. We time a reference workload between trials, and repeat the
  trials around which it changed.
- `library`, instead of `LocalBuilder`: TVM's builder starts its worker processes anew for each
  batch. Ours builds in threads, since the compiler releases Python's lock. A full disk is an error
  of this machine, not a failed schedule.

A stock TVM tracker, and boards with TVM's own server, work too: the protocol is TVM's. They lack
only what `rpc_server` adds.
"""
