"""Devices that stay connected while their server is killed and started again, in
every way in which a device can use the SDK: all of them are there at the same time."""

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path

import requests
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties

import claims
import service
from kinds import KINDS, claims_of, messages, send, until

OPERATOR = IoTHubRegistryManager((service.DATA / "hub.connection").read_text().strip())
ECHO = CloudToDeviceMethod(method_name="echo", payload="are you there?", response_timeout_in_seconds=5)
KILLS = 2


def ready():
    try:
        return requests.get(f"https://{service.DPS}/readyz", timeout=5).ok
    except requests.RequestException:
        return False


def crash():
    """Kill the server as power cuts do. interop/inside starts it again on the same data."""
    pid = Path(os.environ["BERTH_SERVER_PID"])
    before = pid.read_text()
    os.kill(int(before), signal.SIGKILL)
    until("the server runs again", lambda: pid.read_text() != before and ready())


class Watched:
    """A device that takes everything it can take, and keeps it."""

    def __init__(self, kind):
        self.device = kind.provisioned("life")
        self.messages, self.patches, self.acknowledged, self.stopped = queue.Queue(), [], [], False
        # The SDK would wait for ten seconds before it tries to connect again.
        self.device.client = client = self.device.another(connection_retry_interval=1)
        self.device.do(client.connect)
        client.on_message_received = self.messages.put_nowait
        client.on_twin_desired_properties_patch_received = self.patches.append
        self.device.answers()
        self.device.do(client.get_twin)
        self.thread = threading.Thread(target=self.publish)

    def publish(self):
        """Send message after message, and keep those of which the SDK says that the hub has them."""
        n = 0
        while not self.stopped:
            try:
                self.device.do(self.device.client.send_message, str(n))
                self.acknowledged.append(str(n))
            except Exception:  # the application's own business, says the SDK
                time.sleep(0.05)
            n += 1
            time.sleep(0.002)


WATCHED = {}


def more(count):
    """Wait until every device has sent count messages more."""
    wanted = {w: len(w.acknowledged) + count for w in WATCHED.values()}
    until(f"{count} more messages of each device are acknowledged", lambda: all(len(w.acknowledged) >= n for w, n in wanted.items()), 90)


def setUpModule():
    WATCHED.update({kind: Watched(kind) for kind in KINDS})
    for watched in WATCHED.values():
        watched.thread.start()
    try:
        more(50)
        for _ in range(KILLS):
            crash()
            more(50)
    finally:
        for watched in WATCHED.values():
            watched.stopped = True
        for watched in WATCHED.values():
            watched.thread.join()


def tearDownModule():
    for watched in WATCHED.values():
        watched.device.do(watched.device.client.shutdown)


class Restart:
    def test_acknowledged(self):
        """a device whose server is killed with kill -9 while it publishes comes back by itself, and nothing acknowledged is lost"""
        watched = WATCHED[self.kind]
        kept = {m["body"] for m in messages(watched.device.id)}
        self.assertEqual([text for text in watched.acknowledged if text not in kept], [])
        self.assertGreaterEqual(len(watched.acknowledged), 50 * (KILLS + 1))

    def test_back(self):
        """after its server was killed a device answers methods, hears of desired properties, reports, and receives messages"""
        watched = WATCHED[self.kind]
        device = watched.device
        self.assertEqual(OPERATOR.invoke_device_method(device.id, ECHO).payload, {"name": "echo", "got": "are you there?"})
        OPERATOR.update_twin(device.id, Twin(properties=TwinProperties(desired={"round": 1})), "*")
        until("it hears", lambda: [p for p in watched.patches if p.get("round") == 1])
        device.do(device.client.patch_twin_reported_properties, {"back": True})
        self.assertTrue(OPERATOR.get_twin(device.id).properties.reported["back"])
        send(device.id, "welcome back")
        self.assertEqual(watched.messages.get(timeout=10).data, b"welcome back")


claims_of(Restart, sys.modules[__name__])

if __name__ == "__main__":
    claims.main("__main__")
