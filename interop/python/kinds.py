"""The ways in which a device can use the SDK: its synchronous and asynchronous
clients, over MQTT and over MQTT in WebSockets, with a key or a certificate."""

import asyncio
import functools
import itertools
import json
import logging
import os
import subprocess
import threading
import time
import unittest
from pathlib import Path

import requests
from azure.iot.device import IoTHubDeviceClient, MethodResponse, ProvisioningDeviceClient, X509
from azure.iot.device.aio import IoTHubDeviceClient as AsyncDeviceClient
from azure.iot.device.aio import ProvisioningDeviceClient as AsyncProvisioningClient
from azure.iot.deviceprovisioning import DeviceProvisioningClient

import service

CA = Path(os.environ["BERTH_CA"]).read_text()
SCOPE = os.environ["BERTH_ID_SCOPE"]

# The SDK would tell standard error of every connection that ends.
logging.getLogger("azure").addHandler(logging.NullHandler())


def messages(device_id):
    """What a device has sent to the hub, oldest first."""
    token = service.generate_sas_token(service.DPS, service.POLICY["SharedAccessKeyName"], service.POLICY["SharedAccessKey"])
    answer = requests.get(f"https://{service.DPS}/berth/v1/hubs/{service.HUB}/messages", headers={"Authorization": token}, timeout=30)
    answer.raise_for_status()
    return [m for m in map(json.loads, answer.text.splitlines()) if m["deviceId"] == device_id]


def command(*words):
    """Run the operator's command line."""
    subprocess.run([os.environ["BERTH_PROGRAM"], *words, "--data", str(service.DATA)], check=True, capture_output=True)


def send(device_id, body, *flags):
    """Put a message into a device's queue."""
    command("hub", "send", device_id, "--body", body, *flags)


def certificate(file, name, *arguments):
    """Have openssl make a certificate for the name, and return the files of it and its key."""
    cert, key = service.SCRATCH / (file + ".pem"), service.SCRATCH / (file + ".key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=" + name.replace("/", "\\/"), *arguments], check=True, capture_output=True)
    return cert, key


def until(what, so, seconds=30):
    """Wait for something to be so, and return it."""
    end = time.monotonic() + seconds
    while not (result := so()):
        if time.monotonic() > end:
            raise AssertionError(f"not so after {seconds} s: {what}")
        time.sleep(0.05)
    return result


class Sync:
    """What the SDK's synchronous clients do."""

    name, Provisioning, Device = "synchronous", ProvisioningDeviceClient, IoTHubDeviceClient

    def make(self, create):
        """Make a client."""
        return create()

    def do(self, call, *args):
        """Make a call of a client, and return what it returns."""
        return call(*args)

    def answering(self, client):
        """A handler that answers method calls with what they carried."""
        def answer(request):
            client.send_method_response(MethodResponse.create_from_method_request(request, 207, {"name": request.name, "got": request.payload}))
        return answer


class Async:
    """What the SDK's asynchronous clients do, all of them in one loop."""

    name, Provisioning, Device = "asynchronous", AsyncProvisioningClient, AsyncDeviceClient

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def make(self, create):
        async def made():
            return create()
        return self.do(made)

    def do(self, call, *args):
        return asyncio.run_coroutine_threadsafe(call(*args), self.loop).result(120)

    def answering(self, client):
        async def answer(request):
            await client.send_method_response(MethodResponse.create_from_method_request(request, 207, {"name": request.name, "got": request.payload}))
        return answer


class Key:
    name, short, auth = "a key", "key", "sas"

    @staticmethod
    def enroll(operator, rid):
        made = operator.enrollment.create_or_update(rid, {"registrationId": rid, "attestation": {"type": "symmetricKey"}})
        return {"symmetric_key": made["attestation"]["symmetricKey"]["primaryKey"]}

    create = "create_from_symmetric_key"


class Certificate:
    name, short, auth = "a certificate", "cert", "x509"

    @staticmethod
    def enroll(operator, rid):
        cert, key = certificate(rid, rid)
        operator.enrollment.create_or_update(rid, {
            "registrationId": rid, "attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": cert.read_text()}}}}})
        return {"x509": X509(str(cert), str(key))}

    create = "create_from_x509_certificate"


class Kind:
    """One of the ways."""

    def __init__(self, api, websockets, credential):
        self.api, self.websockets, self.credential = api, websockets, credential
        wire = "MQTT in a WebSocket" if websockets else "MQTT"
        self.name = f"{wire}, with {credential.name}, {api.name}"
        self.short = f"{'ws' if websockets else 'mqtt'}-{credential.short}-{api.name[:-len('chronous')]}"

    def provisioned(self, what):
        """A device that has registered."""
        rid = service.unique(f"{what}-{self.short}")
        with DeviceProvisioningClient.from_connection_string(service.SERVICE) as operator:
            secret = self.credential.enroll(operator, rid)
        client = self.api.make(lambda: getattr(self.api.Provisioning, self.credential.create)(
            provisioning_host=service.DPS, registration_id=rid, id_scope=SCOPE, server_verification_cert=CA, websockets=self.websockets, **secret))
        client.provisioning_payload = {"model": "X1"}
        result = self.api.do(client.register)
        state = result.registration_state
        if (result.status, state.assigned_hub, state.device_id) != ("assigned", service.HUB, rid):
            raise AssertionError(f"{rid} is {result.status} at {state.assigned_hub} as {state.device_id}")
        return Device(self, rid, secret)


class Device:
    """A device and its client, which is not connected yet."""

    def __init__(self, kind, rid, secret):
        self.kind, self.id, self.secret = kind, rid, secret

    @functools.cached_property
    def client(self):
        """The client that the device uses."""
        return self.another()

    def another(self, **options):
        """One more client of the device."""
        api = self.kind.api
        return api.make(lambda: getattr(api.Device, self.kind.credential.create)(
            hostname=service.HUB, device_id=self.id, server_verification_cert=CA, websockets=self.kind.websockets, **self.secret, **options))

    def do(self, call, *args):
        return self.kind.api.do(call, *args)

    def answers(self):
        """Let the device answer its operator's method calls."""
        self.client.on_method_request_received = self.kind.api.answering(self.client)


KINDS = [Kind(api, websockets, credential)
         for api, websockets, credential in itertools.product((Sync(), Async()), (False, True), (Key, Certificate))]


def claims_of(story, module):
    """Tell the story, a class of claims, of every kind: claims about self.kind."""
    def short_description(self):
        return f"{self.kind.name}: {self._testMethodDoc}"
    for kind in KINDS:
        name = f"{story.__name__}_{kind.short.replace('-', '_')}"
        vars(module)[name] = type(name, (story, unittest.TestCase), {"__module__": module.__name__, "kind": kind, "shortDescription": short_description})
