#!/usr/bin/env python3
"""Measures the systems that compare.sh has started and prints what it found as Markdown.

Owns the measuring and the tables; compare.sh owns starting and stopping everything. Standard library only.

What makes the figures comparable: the systems take turns cell by cell, in an order that rotates, so that what the
machine does meanwhile hits all of them; every ratio is taken to the floor of its own round, and the median of the rounds
is shown. Throughput and CPU are taken between two progress lines of pgbench, so logins and warming up are not in them.
"""

import argparse
import collections
import glob
import itertools
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

FLOOR = "relay"
PATIENCE = 180  # seconds until something that does not end counts as stuck
CROWD = 2000  # clients beyond which what needs a backend for each is not measured
COPY_MB = 200  # of a COPY
PROGRESS = re.compile(r"progress: ([\d.]+) s, ([\d.]+) tps")
PROCESSED = re.compile(r"number of transactions actually processed: (\d+)")
FAILED = re.compile(r"number of failed transactions: ([1-9]\d*)")
TRANSFERS = ("recvfrom", "sendto", "recvmsg", "sendmsg", "read", "write", "readv", "writev")
WAITS = ("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select")

# What pgbench is told for each kind of cell; {scripts} is where the scripts below are written.
KINDS = {
    "simple": (["-S", "-M", "simple"], "`SELECT` by key, simple protocol"),
    "extended": (["-S", "-M", "extended"], "`SELECT` by key, extended protocol"),
    "prepared": (["-S", "-M", "prepared"], "`SELECT` by key, prepared"),
    "tpcb": (["-b", "tpcb-like", "-M", "prepared"], "TPC-B, prepared"),
    "pipeline": (["-f", "{scripts}/pipeline.sql", "-M", "prepared"], "pipeline of 10 `SELECT`s, prepared"),
    "bulk": (["-f", "{scripts}/bulk.sql", "-M", "simple"], "result of 4 MB"),
    "connect": (["-S", "-C", "-M", "simple"], "connect, SCRAM login, one `SELECT`"),
    # By psql, which pgbench cannot do: a transaction is a megabyte of the client's data.
    "copyout": (f"COPY (SELECT repeat('x', 199) FROM generate_series(1, {COPY_MB * 5000})) TO STDOUT", "`COPY ... TO STDOUT`, by the MB"),
    "copyin": ("COPY sink FROM STDIN", "`COPY ... FROM STDIN`, by the MB"),
}
LOOK_UP = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
SCRIPTS = {
    "pipeline.sql": "\\set aid random(1, 100000 * :scale)\n\\startpipeline\n" + LOOK_UP * 10 + "\\endpipeline\n",
    "bulk.sql": "SELECT repeat('x', 200) FROM generate_series(1, 20000);\n",
    "idle.sql": "SELECT 1;\n\\sleep 2000 s\n",
}

System = collections.namedtuple("System", "name port pid host")  # pid is None for PostgreSQL itself
Cell = collections.namedtuple("Cell", "name kind clients")
# Transactions/s, us of CPU each, ms, ms, and the transactions of the client that had the fewest as a part of the mean. Each may be None.
Sample = collections.namedtuple("Sample", "tps cpu p50 p99 least")
SKIPPED = Sample(None, None, None, None, None)


class Failed(Exception):
    """A system under test gave errors, or could not be measured."""


def main():
    args = arguments()
    try:
        systems, cells = args.system, args.cells
        memory = measure_memory(args, systems) if args.idle else {}
        samples, failures = measure_cells(args, systems, cells)
        syscalls = measure_syscalls(args, systems, args.syscalls) if args.syscalls else {}
    except KeyboardInterrupt:
        sys.exit(130)
    report = "\n".join(itertools.chain(
        [args.facts.read_text() + f"- {args.rounds} rounds, {args.seconds} s a cell, {args.threads} pgbench thread(s)."],
        ratio_table("CPU per transaction, as a ratio to the relay's (less is better)", systems, cells, samples, "cpu"),
        ratio_table("Throughput, as a ratio to the relay's (more is better)", systems, cells, samples, "tps"),
        fairness_table(systems, cells, samples),
        raw_table(systems, cells, samples),
        syscall_table(syscalls),
        memory_table(args.idle, memory),
    )) + "\n"
    print(report, flush=True)
    failures += [f"{what} of {name if isinstance(name, str) else ', '.join(name)}: {value}" for what, figures in (("syscalls", syscalls), ("memory", memory))
                 for name, value in figures.items() if isinstance(value, Failed)]
    if failures:
        sys.exit("compare: NOT a valid comparison, there were failures:\n" + "\n".join(failures))
    if args.write:
        write_section(args.write, report)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pgbench", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--system", type=parse_system, action="append", required=True, help="NAME,PORT[,PID[,HOST]]")
    parser.add_argument("--cells", type=parse_cells, required=True)
    parser.add_argument("--syscalls", type=parse_cells, default=[])
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--idle", type=int, default=0, help="number of idle clients for the memory figure; 0: none")
    parser.add_argument("--facts", type=pathlib.Path, required=True, help="file with what the report starts with")
    parser.add_argument("--write", type=pathlib.Path, help="page whose marked section is replaced by the report")
    args = parser.parse_args()
    args.scripts = tempfile.mkdtemp(dir=args.facts.parent)
    for name, text in SCRIPTS.items():
        pathlib.Path(args.scripts, name).write_text(text)
    return args


def parse_system(text):
    name, port, pid, host, *_ = text.split(",") + ["", ""]
    return System(name, int(port), int(pid) if pid else None, host or "127.0.0.1")


def parse_cells(text):
    cells = []
    for name in filter(None, text.split(",")):
        kind, _, clients = name.rpartition("-")
        if kind not in KINDS or not clients.isdigit() or clients == "0":
            raise argparse.ArgumentTypeError(f"no cell '{name}': want KIND-CLIENTS, KIND one of {', '.join(KINDS)}")
        cells.append(Cell(name, kind, int(clients)))
    return cells


# --- throughput, CPU and latency -----------------------------------------------------------------------------------


def measure_cells(args, systems, cells):
    """Samples by (cell, system), one a round (None where it failed), and what went wrong."""
    samples, failures = collections.defaultdict(list), []
    for number in range(args.rounds):
        for index, cell in enumerate(cells):
            start = (number + index) % len(systems)
            for system in systems[start:] + systems[:start]:
                note(f"round {number + 1}/{args.rounds}  {cell.name}  {system.name}")
                measured = measure_copy if cell.kind.startswith("copy") else measure
                try:
                    has_backends = system.pid is None or is_relay(system)
                    sample = SKIPPED if has_backends and cell.clients > CROWD else measured(args, system, cell)
                except Failed as error:
                    sample = None
                    failures.append(f"{system.name}, {cell.name}: {error}")
                    print(f"compare: FAILED {failures[-1]}", file=sys.stderr)
                samples[cell, system].append(sample)
    note("")
    return samples, failures


def is_relay(system):
    return system.name.split(":")[0] == FLOOR


def measure(args, system, cell):
    """One run of pgbench: what lies between its first progress line and the last of the measured seconds."""
    with tempfile.TemporaryDirectory(dir=args.scripts) as logs:
        # Logging each of many short transactions would cost the machine more than the pooler does.
        rate = "0.1" if cell.kind in ("simple", "extended", "prepared") and 1 < cell.clients < CROWD else "1"
        command = pgbench(args, system, cell, [
            "-T", "3600", "-P", "1", "--progress-timestamp",
            "-l", f"--log-prefix={logs}/log", f"--sampling-rate={rate}",
        ])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        errors, marks, transactions, cpu = [], [], 0.0, []
        watchdog = threading.Timer(args.seconds + PATIENCE, process.kill)
        watchdog.start()
        try:
            for line in process.stderr:
                progress = PROGRESS.match(line)
                if not progress:
                    errors.append(line)
                elif marks or float(progress[2]):
                    # With many clients the logins take longer than a second, and the first line comes as soon as they are done.
                    if len(marks) > args.seconds:
                        continue
                    cpu.append(cpu_time(system))
                    if marks:
                        transactions += float(progress[2]) * (float(progress[1]) - marks[-1])
                    marks.append(float(progress[1]))
                    if len(marks) > args.seconds:
                        # What pgbench sends itself at the end of -T, which would count from before the logins:
                        # every client ends its transaction and logs out.
                        process.send_signal(signal.SIGALRM)
            output = process.stdout.read()
        finally:
            watchdog.cancel()
            end(process)
        complain(process, output, errors)
        if len(marks) < 2 or not transactions:
            raise Failed("pgbench reported no progress")
        p50, p99, least = latencies(logs, marks[0], marks[-1], cell.clients if rate == "1" else 0)
        spent = None if system.pid is None else (elapsed(cpu[0], cpu[-1]) / 1000 / transactions)
        return Sample(transactions / (marks[-1] - marks[0]), spent, p50, p99, least)


def measure_copy(args, system, cell):
    """As many psql as there are clients, each with one COPY of COPY_MB."""
    before, start = cpu_time(system), time.monotonic()
    data = pathlib.Path(args.scripts, "copy.data")
    if not data.exists():
        data.write_bytes((b"x" * 199 + b"\n") * (COPY_MB * 5000))
    runs = []
    for _ in range(cell.clients):
        with open(data if cell.kind == "copyin" else os.devnull, "rb") as source:
            command = [os.path.join(os.path.dirname(args.pgbench), "psql"), "-XAtq", "-h", system.host, "-p", str(system.port), "-U", args.user,
                       "-c", KINDS[cell.kind][0], args.database]
            runs.append(subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    for run in runs:
        _, said = run.communicate(timeout=PATIENCE)
        if run.returncode:
            raise Failed(f"psql: {said.strip()}")
    megabytes, seconds = COPY_MB * cell.clients, time.monotonic() - start
    spent = None if system.pid is None else elapsed(before, cpu_time(system)) / 1000 / megabytes
    return Sample(megabytes / seconds, spent, None, None, None)


def pgbench(args, system, cell, options):
    kind = [option.format(scripts=args.scripts) for option in KINDS[cell.kind][0]]
    return [args.pgbench, "-h", system.host, "-p", str(system.port), "-U", args.user, "-n", "-c", str(cell.clients),
            "-j", str(min(args.threads, cell.clients)), *kind, *options, args.database]


def run_pgbench(args, system, cell, transactions_each):
    """Runs pgbench to its end and returns what it printed."""
    command = pgbench(args, system, cell, ["-t", str(transactions_each)])
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failed(f"pgbench got stuck for {PATIENCE} s") from None
    complain(run, run.stdout, run.stderr.splitlines())
    return run.stdout


def complain(process, output, errors):
    """Raises Failed unless this run of pgbench, which has ended, was without any error."""
    failed = FAILED.search(output)
    bad = [line.strip() for line in errors if re.search(r"error|fatal|aborted|warning", line, re.IGNORECASE)]
    if process.returncode or bad or failed:
        raise Failed("; ".join(bad[:3]) or (failed and failed[0]) or f"pgbench ended with {process.returncode}; was it stuck?")


def cpu_time(system):
    """Nanoseconds on a CPU, user and system, by thread."""
    times = {}
    if system.pid is not None:
        for path in glob.glob(f"/proc/{system.pid}/task/*/schedstat"):
            try:
                times[path] = int(pathlib.Path(path).read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass  # a thread that has just ended
        if not times:
            raise Failed(f"process {system.pid} is gone")
    return times


def elapsed(before, after):
    return sum(value - before.get(thread, 0) for thread, value in after.items())


def latencies(logs, start, finish, clients):
    """p50 and p99 in ms of the transactions that ended in these seconds, and the least share of one of `clients`, if given."""
    values, counts = [], collections.Counter()
    for path in glob.glob(f"{logs}/log*"):
        with open(path, encoding="ascii") as log:
            for line in log:
                fields = line.split()
                if start <= int(fields[4]) + int(fields[5]) / 1e6 <= finish:
                    values.append(int(fields[2]) / 1000)
                    counts[path, fields[0]] += 1
    values.sort()
    if not values:
        raise Failed("no latencies were logged")
    least = (min(counts.values()) if len(counts) == clients else 0) * clients / len(values) if clients else None
    return values[len(values) // 2], values[min(len(values) - 1, len(values) * 99 // 100)], least


# --- system calls --------------------------------------------------------------------------------------------------


def measure_syscalls(args, systems, cells):
    """Calls per transaction by (cell name, system name): a long run minus a short one, so logins cancel out."""
    result = {}
    for cell in cells:
        for system in systems:
            if system.pid is None or cell.clients > CROWD and is_relay(system):
                continue
            note(f"system calls  {cell.name}  {system.name}")
            try:
                short = count_syscalls(args, system, cell, max(10, 1000 // cell.clients))
                long = count_syscalls(args, system, cell, max(60, 6000 // cell.clients))
                number = long[1] - short[1]
                result[cell.name, system.name] = {
                    call: (long[0][call] - short[0][call]) / number for call in long[0] | short[0]
                }
            except Failed as error:
                result[cell.name, system.name] = error
    note("")
    return result


def count_syscalls(args, system, cell, transactions_each):
    """Calls by name, and the number of transactions, of one run."""
    with tempfile.NamedTemporaryFile("r", dir=args.scripts) as counts:
        command = ["strace", "-c", "-f", "-p", str(system.pid), "-o", counts.name]
        try:
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise Failed("strace is not installed") from None
        try:
            if "attached" not in tracer.stderr.readline():
                raise Failed("strace may not attach to this process (try as root)")
            output = run_pgbench(args, system, cell, transactions_each)
        finally:
            end(tracer, signal.SIGINT)
        calls = collections.Counter()
        for line in counts.read().splitlines():
            fields = line.split()
            if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
                calls[fields[-1]] = int(fields[3])
        return calls, int(PROCESSED.search(output)[1])


# --- memory --------------------------------------------------------------------------------------------------------


def measure_memory(args, systems):
    """Bytes per idle client by system name. Runs first, while the poolers are as they started."""
    result = {}
    for system in systems:
        if system.pid is None or is_relay(system):  # one backend a client: nothing to compare
            continue
        note(f"memory of {args.idle} idle clients  {system.name}")
        try:
            result[system.name] = idle_client_bytes(args, system)
        except Failed as error:
            result[system.name] = error
    note("")
    return result


def idle_client_bytes(args, system):
    # Opens the server connections and first buffers, which are not the idle clients'.
    run_pgbench(args, system, Cell("", "simple", 20), 100)
    until_quiet(system, sockets(system))
    before, sockets_before = resident(system), sockets(system)
    command = [args.pgbench, "-h", system.host, "-p", str(system.port), "-U", args.user, "-n", "-c", str(args.idle),
               "-f", f"{args.scripts}/idle.sql", "-T", "2000", args.database]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until_quiet(system, sockets_before + args.idle, process)
        used = resident(system) - before
    finally:
        end(process, signal.SIGTERM)
    until_quiet(system, 0)
    return used / args.idle


def until_quiet(system, at_least, process=None):
    """Waits for this number of open files, and then until the pooler has next to nothing left to do."""
    deadline, calm, last = time.monotonic() + PATIENCE, 0, cpu_time(system)
    while calm < 3:
        time.sleep(0.2)
        now = cpu_time(system)
        calm = calm + 1 if sockets(system) >= at_least and elapsed(last, now) < 4_000_000 else 0
        last = now
        if process is not None and process.poll() is not None:
            raise Failed(f"the idle clients could not stay: {process.stderr.read().strip()[-300:]}")
        if time.monotonic() > deadline:
            raise Failed(f"{sockets(system)} of {at_least} connections after {PATIENCE} s")


def sockets(system):
    return len(os.listdir(f"/proc/{system.pid}/fd"))


def resident(system):
    rollup = pathlib.Path(f"/proc/{system.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024


# --- tables --------------------------------------------------------------------------------------------------------


def ratio_table(title, systems, cells, samples, field):
    floor = next((system for system in systems if system.name == FLOOR), None)
    shown = [system for system in systems if floor and (field != "cpu" or system.pid is not None)]
    if not shown:
        return
    yield from ("", f"### {title}", "", row(["pgbench", "clients"] + [system.name for system in shown]),
                row(["---"] + ["--:"] * (len(shown) + 1)))
    for cell in cells:
        if cell.clients > CROWD:
            continue
        values = []
        for system in shown:
            pairs = list(zip(samples[cell, system], samples[cell, floor]))
            whole = all(pair[0] and pair[1] for pair in pairs)
            ratios = [getattr(one, field) / getattr(base, field) for one, base in pairs] if whole else []
            values.append(f"{statistics.median(ratios):.2f}" if whole else "FAILED")
        yield row([KINDS[cell.kind][1], cell.clients] + values)


def raw_table(systems, cells, samples):
    yield from ("", "### Raw values", "", "The spread is that of the CPU figure, or else of the throughput: (most - "
                "least) / median over the rounds.", "",
                row(["pgbench", "clients", "system", "transactions/s", "CPU us each", "p50 ms", "p99 ms", "spread"]),
                row(["---", "--:", "---"] + ["--:"] * 5))
    for cell in cells:
        for system in systems:
            rounds = samples[cell, system]
            head = [cell.kind, cell.clients, system.name]
            if None in rounds:
                yield row(head + ["FAILED"] + [""] * 4)
                continue
            if SKIPPED in rounds:
                continue
            spread = [sample.tps if sample.cpu is None else sample.cpu for sample in rounds]
            middle = Sample(*(None if None in values else statistics.median(values) for values in zip(*rounds)))
            yield row(head + [f"{middle.tps:,.0f}", "" if middle.cpu is None else f"{middle.cpu:,.2f}",
                              *("" if value is None else f"{value:.2f}" for value in (middle.p50, middle.p99)),
                              f"{(max(spread) - min(spread)) / statistics.median(spread):.0%}"])


def fairness_table(systems, cells, samples):
    crowds = [(cell, system) for cell in cells if cell.clients > CROWD for system in systems
              if not {None, SKIPPED} & set(samples[cell, system])]
    if not crowds:
        return
    yield from ("", "### Crowds", "", "The slowest client's share is its number of transactions as a part of the mean.", "",
                row(["pgbench", "clients", "system", "transactions/s", "p99 / p50", "slowest client's share"]),
                row(["---", "--:", "---", "--:", "--:", "--:"]))
    for cell, system in crowds:
        rounds = samples[cell, system]
        tps, ratio, least = (statistics.median(values) for values in
                             zip(*((sample.tps, sample.p99 / sample.p50, sample.least) for sample in rounds)))
        yield row([KINDS[cell.kind][1], f"{cell.clients:,}", system.name, f"{tps:,.0f}", f"{ratio:.2f}", f"{least:.2f}"])


def syscall_table(syscalls):
    if not syscalls:
        return
    yield from ("", "### System calls per transaction", "", row(["cell", "system", "recv + send", "wait for events",
                "futex", "epoll_ctl", "all others"]), row(["---", "---"] + ["--:"] * 5))
    for (cell, system), calls in syscalls.items():
        if isinstance(calls, Failed):
            yield row([cell, system, "FAILED"] + [""] * 4)
            continue
        figures = [sum(calls.get(name, 0) for name in names) for names in (TRANSFERS, WAITS, ("futex",), ("epoll_ctl",))]
        figures.append(sum(calls.values()) - sum(figures))
        yield row([cell, system] + [f"{figure + 0:.3f}" for figure in figures])


def memory_table(clients, memory):
    if not memory:
        return
    yield from ("", "### Memory per idle client", "", f"Proportional set size, {clients:,} logged-in clients that have "
                "run one query; without what the kernel holds for the sockets.", "",
                row(["system", "bytes per client"]), row(["---", "--:"]))
    for name, value in memory.items():
        yield row([name, "FAILED" if isinstance(value, Failed) else f"{value:,.0f}"])


def row(values):
    return "| " + " | ".join(str(value) for value in values) + " |"


def write_section(page, report):
    """Replaces what stands between the two markers of the page."""
    begin, finish = "<!-- compare.sh: begin -->", "<!-- compare.sh: end -->"
    head, found, rest = page.read_text().partition(begin)
    _, found_end, tail = rest.partition(finish)
    if not found or not found_end:
        sys.exit(f"compare: {page} lacks the markers {begin} and {finish}")
    page.write_text(f"{head}{begin}\n{report.strip()}\n{finish}{tail}")


def note(text):
    """What is being done, in one line that the next one replaces; nothing when nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def end(process, how=signal.SIGTERM):
    if process.poll() is None:
        process.send_signal(how)
        process.wait()


if __name__ == "__main__":
    main()
