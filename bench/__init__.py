"""How fast it is, next to what the machine can do: `python -m bench`.

    plan.py      the cells of the table, and the order they are run in
    calls.py     the rpcs that are measured: one row each
    world.py     Postgres, servers, echoes and the client, started once
    run.py       the rounds: one window of time per cell, watched from outside
    statements.py  the service's SQL, for pgbench
    load.py      what makes load: h2load, pgbench, raw hashes, our own client
    client.py    the process that checks every answer; checks.py says what is right
    echo.py      the process that answers and does nothing else; hashes.py the one that hashes
    watch.py     what the kernel and Postgres counted meanwhile
    table.py     medians, ratios, text; plot.py draws them; goals.py judges them
    workers.py   what a call costs in one worker, and in each of two
    startup.py   seconds until ready, memory, seconds of a first try; ready.py waits

Linux only: CPU time comes from /proc. Nothing here is imported by the service.
"""
