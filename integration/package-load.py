"""Requests functions over kept and over new connections until SIGTERM. Prints the number of answers; fails if any is missing.

A kept connection that the server has closed between two requests is opened again, as every client has to.
"""

import http.client
import signal
import sys
import threading
import time

over = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: over.set())
answers, failures = [0, 0], []


def ask(connection):
    connection.request("GET", "/invoke/hello/")
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}")


def client(kept):
    connection = http.client.HTTPConnection("127.0.0.1", 8123, timeout=30)
    while not over.is_set():
        try:
            ask(connection)
            answers[kept] += 1
        except Exception as error:  # noqa: BLE001, each is a failure
            failures.append(f"{'kept' if kept else 'new'}: {error!r}")
            connection.close()
        if not kept:
            connection.close()
        time.sleep(0.005)


threads = [threading.Thread(target=client, args=(kept,)) for kept in (0, 0, 1, 1)]
for thread in threads:
    thread.start()
over.wait(120)
for thread in threads:
    thread.join()
print(f"answers over new connections: {answers[0]}, over kept ones: {answers[1]}, failures: {failures}")
sys.exit(bool(failures) or min(answers) < 20)
