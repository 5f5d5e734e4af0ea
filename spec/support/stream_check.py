#!/usr/bin/python3
"""Decodes a captured event stream with Google's protobuf library, and prints its contents as JSON.

    stream_check.py CAPTURE [--steps]
    stream_check.py --make < EVENTS > CAPTURE

CAPTURE is a file of length-delimited Event messages (spec/fixtures/event.proto, compiled by protoc); "-" is standard
input. The JSON on standard output has these members:

    implementation  the library's implementation: cpp, upb or python
    events, metrics the number of all events, and of events with a Metric
    pending         the number of bytes at the end that are no complete frame
    backwards       the number of metrics with an earlier timestamp than the metric before
    first, last     the timestamps of the first and last metric, in seconds since 1970
    metadata        list of { name, type, unit, description }, in the order of the stream; an absent field is null
    series          list of { name, labels, operations, count, sum, moment, steps }, in the order of their first events

`operations` has the number of each operation. `moment` is the sum of each value times its number in the series, from 1.
`steps`, with --steps, has all records of a series in order, as lists of an operation, its value, and how often the two
were repeated. Values are exact. Anything that a reader could not accept (a bad frame, text that is not UTF-8, a metric
without operation, name or timestamp) is an error: a line on standard error and exit code 1.

With --make it encodes a stream instead, from lines of JSON, one for each event, in protobuf's own JSON mapping.
"""

import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings

PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "event.proto")
TYPES = ("counter", "gauge", "histogram")


class Malformed(Exception):
    pass


def event_class():
    """Returns the class that protoc generates for Event."""
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.dirname(PROTO)
        subprocess.run(["protoc", "-I", source, "--python_out", folder, "event.proto"], check=True)
        sys.path.insert(0, folder)
        try:
            return importlib.import_module("event_pb2").Event
        finally:
            sys.path.remove(folder)


def frames(data):
    """Yields the bytes of each complete frame. Returns the number of bytes that are left over."""
    at, end = 0, len(data)
    while at < end:
        size, shift, first = 0, 0, at
        while True:
            if first == end:
                return end - at
            byte = data[first]
            first += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift == 70:
                raise Malformed("a frame's length has more than 64 bits, at byte %d" % at)
        if first + size > end:
            return end - at
        yield data[first : first + size]
        at = first + size
    return 0


class Series:
    def __init__(self, name, labels):
        self.name, self.labels = name, labels
        self.operations, self.values, self.steps = {}, [], []

    def add(self, operation, value, with_steps):
        self.operations[operation] = self.operations.get(operation, 0) + 1
        self.values.append(value)
        if not with_steps:
            return
        last = self.steps[-1] if self.steps else None
        # repr distinguishes -0.0 from 0.0.
        if last and last[0] == operation and last[1] == value and (value or repr(last[1]) == repr(value)):
            last[2] += 1
        else:
            self.steps.append([operation, value, 1])

    def summary(self, with_steps):
        found = {
            "name": self.name,
            "labels": self.labels,
            "operations": self.operations,
            "count": len(self.values),
            "sum": total(self.values),
            "moment": total([number * value for number, value in enumerate(self.values, 1)]),
        }
        if with_steps:
            found["steps"] = [[operation, plain(value), times] for operation, value, times in self.steps]
        return found


def total(values):
    """Returns the sum, rounded only once, so that it does not depend on the order; text if a value is infinite."""
    if all(isinstance(value, int) for value in values):
        return sum(values)
    return plain(math.fsum(values) if all(map(math.isfinite, values)) else sum(values))


def plain(value):
    """Returns a number for JSON. NaN and infinities become text, because JSON does not have them."""
    return value if isinstance(value, int) or math.isfinite(value) else str(value)


def optional(message, oneof):
    member = message.WhichOneof(oneof)
    return None if member is None else getattr(message, member)


def metadata_of(message):
    kind = message.metric_type
    return {
        "name": message.name,
        "type": TYPES[kind] if 0 <= kind < len(TYPES) else kind,
        "unit": optional(message, "unit"),
        "description": optional(message, "description"),
    }


class Check:
    def __init__(self, with_steps):
        self.with_steps = with_steps
        self.events = self.metrics = self.backwards = 0
        self.metadata, self.series = [], {}
        self.first = self.last = None

    def take(self, event):
        kind = event.WhichOneof("event")
        if kind == "metric":
            self.take_metric(event.metric)
        elif kind == "metadata":
            self.metadata.append(metadata_of(event.metadata))
        else:
            raise Malformed("an event with nothing in it")
        self.events += 1

    def take_metric(self, metric):
        operation = metric.WhichOneof("operation")
        if operation is None or not metric.name or not metric.HasField("timestamp"):
            raise Malformed("a metric lacks its operation, name or timestamp: %s" % str(metric).replace("\n", " "))
        self.take_time(metric.timestamp)
        self.metrics += 1
        labels = dict(metric.labels)
        key = (metric.name, *sorted(labels.items())) if labels else metric.name
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series(metric.name, labels)
        series.add(operation, getattr(metric, operation), self.with_steps)

    def take_time(self, timestamp):
        time = (timestamp.seconds, timestamp.nanos)
        if not 0 <= time[1] < 1000000000:
            raise Malformed("a timestamp has %d nanoseconds" % time[1])
        if self.last is None:
            self.first = time
        elif time < self.last:
            self.backwards += 1
        self.last = time

    def summary(self):
        return {
            "events": self.events,
            "metrics": self.metrics,
            "backwards": self.backwards,
            "first": self.first and self.first[0] + self.first[1] / 1e9,
            "last": self.last and self.last[0] + self.last[1] / 1e9,
            "metadata": self.metadata,
            "series": [series.summary(self.with_steps) for series in self.series.values()],
        }


def check(path, with_steps):
    from google.protobuf.internal import api_implementation
    from google.protobuf.message import DecodeError

    if path == "-":
        data = sys.stdin.buffer.read()
    else:
        with open(path, "rb") as file:
            data = file.read()
    # The C++ library reports a stray end of a group only by a warning. If it were an exception, any later call would
    # raise it.
    problems = []
    warnings.simplefilter("always", RuntimeWarning)
    warnings.showwarning = lambda message, *_: problems.append(message)
    event, found = event_class()(), Check(with_steps)
    source = frames(data)
    while True:
        try:
            frame = next(source)
            event.ParseFromString(frame)
        except StopIteration as end:
            pending = end.value
            break
        except DecodeError as problem:
            problems.append(problem)
        if problems:
            raise Malformed("event %d: %s" % (found.events + 1, problems[0]))
        found.take(event)
    return {"implementation": api_implementation.Type(), "pending": pending, **found.summary()}


def make():
    from google.protobuf import json_format
    from google.protobuf.internal.encoder import _VarintBytes

    event = event_class()
    for line in sys.stdin:
        body = json_format.Parse(line, event()).SerializeToString()
        sys.stdout.buffer.write(_VarintBytes(len(body)) + body)


def main(arguments):
    if arguments == ["--make"]:
        return make()
    if len(arguments) not in (1, 2) or arguments[1:] not in ([], ["--steps"]):
        sys.exit(__doc__)
    try:
        json.dump(check(arguments[0], len(arguments) == 2), sys.stdout)
    except Malformed as problem:
        sys.exit("stream_check.py: %s" % problem)
    print()


main(sys.argv[1:])
