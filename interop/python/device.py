"""Devices with the SDK for Python, over MQTT and over MQTT in WebSockets: each
registers, and then lives on the hub that it was given."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import queue
import subprocess
import threading
import unittest
from pathlib import Path

from azure.iot.device import (
    IoTHubDeviceClient, Message, MethodResponse, ProvisioningDeviceClient, X509,
)
from azure.iot.device.aio import IoTHubDeviceClient as AsyncDeviceClient
from azure.iot.device.aio import ProvisioningDeviceClient as AsyncProvisioningClient
from azure.iot.deviceprovisioning import DeviceProvisioningClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties
import requests

import claims
import service

CA = Path(os.environ["BERTH_CA"]).read_text()
SCOPE = os.environ["BERTH_ID_SCOPE"]


def derived(key, registration_id):
    """The key of a device of an enrollment group."""
    return base64.b64encode(hmac.digest(base64.b64decode(key), registration_id.encode(), hashlib.sha256)).decode()


def messages(device_id):
    """What a device has sent to the hub, oldest first."""
    token = service.generate_sas_token(service.DPS, service.POLICY["SharedAccessKeyName"], service.POLICY["SharedAccessKey"])
    answer = requests.get(f"https://{service.DPS}/berth/v1/hubs/{service.HUB}/messages", headers={"Authorization": token}, timeout=30)
    answer.raise_for_status()
    return [m for m in map(json.loads, answer.text.splitlines()) if m["deviceId"] == device_id]


def send(device_id, message):
    """Put a message into a device's queue."""
    token = service.generate_sas_token(service.DPS, service.POLICY["SharedAccessKeyName"], service.POLICY["SharedAccessKey"])
    answer = requests.post(f"https://{service.DPS}/berth/v1/hubs/{service.HUB}/devices/{device_id}/messages", json=message,
                           headers={"Authorization": token}, timeout=30)
    answer.raise_for_status()


class Devices(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with DeviceProvisioningClient.from_connection_string(service.SERVICE) as operator:
            group = service.unique("devices")
            made = operator.enrollment_group.create_or_update(
                group, {"enrollmentGroupId": group, "attestation": {"type": "symmetricKey"}})
            cls.group_key = made["attestation"]["symmetricKey"]["primaryKey"]
        cls.hub = IoTHubRegistryManager((service.DATA / "hub.connection").read_text().strip())

    @staticmethod
    def hub_policy():
        parts = dict(p.split("=", 1) for p in (service.DATA / "hub.connection").read_text().strip().split(";"))
        return parts["SharedAccessKeyName"], parts["SharedAccessKey"]

    def provisioned(self, what, websockets=False):
        """A device's name and key after it registered."""
        rid = service.unique(what)
        key = derived(self.group_key, rid)
        client = ProvisioningDeviceClient.create_from_symmetric_key(
            provisioning_host=service.DPS, registration_id=rid, id_scope=SCOPE, symmetric_key=key,
            server_verification_cert=CA, websockets=websockets)
        client.provisioning_payload = {"model": "X1"}
        result = client.register()
        self.assertEqual((result.status, result.registration_state.assigned_hub, result.registration_state.device_id),
                         ("assigned", service.HUB, rid))
        return rid, key

    def connected(self, rid, key, websockets=False):
        client = IoTHubDeviceClient.create_from_symmetric_key(
            symmetric_key=key, hostname=service.HUB, device_id=rid, server_verification_cert=CA, websockets=websockets)
        client.connect()
        self.addCleanup(client.shutdown)
        return client

    def life(self, websockets):
        rid, key = self.provisioned("life", websockets)
        device = self.connected(rid, key, websockets)

        message = Message(json.dumps({"temperature": 21.5, "unit": "°C"}))
        message.message_id, message.correlation_id = "m/1", "c 1"
        message.content_type, message.content_encoding = "application/json", "utf-8"
        message.custom_properties["alarm"] = "no & no=yes/+%"
        device.send_message(message)
        heard = messages(rid)
        self.assertEqual([m["body"] for m in heard], [message.data])
        self.assertEqual(heard[0]["properties"], {"alarm": "no & no=yes/+%"})
        system = heard[0]["systemProperties"]
        self.assertEqual((system["message-id"], system["correlation-id"], system["content-type"], system["connection-device-id"]),
                         ("m/1", "c 1", "application/json", rid))

        patches = queue.Queue()
        device.on_twin_desired_properties_patch_received = patches.put
        device.patch_twin_reported_properties({"firmware": "1.2", "net": {"mac": "00:11"}})
        self.assertEqual(device.get_twin(), {
            "desired": {"$version": 1}, "reported": {"firmware": "1.2", "net": {"mac": "00:11"}, "$version": 2}})
        self.hub.update_twin(rid, Twin(properties=TwinProperties(desired={"rate": 1, "net": {"a": 1}})), "*")
        self.assertEqual(patches.get(timeout=10), {"rate": 1, "net": {"a": 1}, "$version": 2})
        self.hub.update_twin(rid, Twin(properties=TwinProperties(desired={"net": {"a": None}})), "*")
        self.assertEqual(patches.get(timeout=10), {"net": {"a": None}, "$version": 3})
        self.assertEqual(self.hub.get_twin(rid).properties.reported["firmware"], "1.2")

        def answer(request):
            device.send_method_response(MethodResponse.create_from_method_request(request, 207, {"name": request.name, "got": request.payload}))
        device.on_method_request_received = answer
        result = self.hub.invoke_device_method(rid, CloudToDeviceMethod(method_name="reboot", payload={"in": 5}, response_timeout_in_seconds=10))
        self.assertEqual((result.status, result.payload), (207, {"name": "reboot", "got": {"in": 5}}))
        device.disconnect()

    def test_mqtt(self):
        """a device registers over MQTT and lives on its hub: telemetry, twin, direct method"""
        self.life(websockets=False)

    def test_websockets(self):
        """a device registers over MQTT in a WebSocket and lives on its hub: telemetry, twin, direct method"""
        self.life(websockets=True)

    def test_certificate(self):
        """a device with a certificate registers over MQTT and is heard by its hub"""
        rid = service.unique("mqtt-x509")
        cert, key = service.SCRATCH / (rid + ".pem"), service.SCRATCH / (rid + ".key")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=" + rid],
            check=True, capture_output=True)
        with DeviceProvisioningClient.from_connection_string(service.SERVICE) as operator:
            operator.enrollment.create_or_update(rid, {
                "registrationId": rid, "attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": cert.read_text()}}}}})
        x509 = X509(str(cert), str(key))
        result = ProvisioningDeviceClient.create_from_x509_certificate(
            provisioning_host=service.DPS, registration_id=rid, id_scope=SCOPE, x509=x509, server_verification_cert=CA).register()
        self.assertEqual(result.status, "assigned")
        device = IoTHubDeviceClient.create_from_x509_certificate(
            x509=x509, hostname=result.registration_state.assigned_hub, device_id=rid, server_verification_cert=CA)
        device.connect()
        self.addCleanup(device.shutdown)
        device.send_message("hello")
        self.assertEqual([m["body"] for m in messages(rid)], ["hello"])

    def test_async(self):
        """a device with the SDK's asynchronous clients registers and sends many messages at once, and none is lost"""
        rid = service.unique("async")
        key = derived(self.group_key, rid)

        async def run():
            client = AsyncProvisioningClient.create_from_symmetric_key(
                provisioning_host=service.DPS, registration_id=rid, id_scope=SCOPE, symmetric_key=key, server_verification_cert=CA)
            self.assertEqual((await client.register()).status, "assigned")
            device = AsyncDeviceClient.create_from_symmetric_key(
                symmetric_key=key, hostname=service.HUB, device_id=rid, server_verification_cert=CA)
            await device.connect()
            await asyncio.gather(*(device.send_message(str(n)) for n in range(100)))
            await device.shutdown()
        asyncio.run(run())
        self.assertEqual(sorted(int(m["body"]) for m in messages(rid)), list(range(100)))

    def test_messages(self):
        """messages to a device wait for it and arrive in order over MQTT, with their properties"""
        rid, key = self.provisioned("bound")
        told = {"zone": "no & no=yes/+%$#", "Unit": "a b"}
        send(rid, {"body": "first", "properties": told, "messageId": "m/1 e", "correlationId": "c=1&2", "userId": "u+1",
                   "contentType": "application/json", "contentEncoding": "utf-8", "ack": "full"})
        send(rid, {"body": "second"})
        device = IoTHubDeviceClient.create_from_symmetric_key(
            symmetric_key=key, hostname=service.HUB, device_id=rid, server_verification_cert=CA)
        self.addCleanup(device.shutdown)
        heard = queue.Queue()
        device.on_message_received = heard.put
        device.connect()
        first = heard.get(timeout=10)
        self.assertEqual((first.data, first.custom_properties), (b"first", told))
        self.assertEqual((first.message_id, first.correlation_id, first.user_id, first.content_type, first.content_encoding, first.ack),
                         ("m/1 e", "c=1&2", "u+1", "application/json", "utf-8", "full"))
        self.assertEqual(heard.get(timeout=10).data, b"second")
        send(rid, {"body": "third"})
        self.assertEqual(heard.get(timeout=10).data, b"third")
        device.disconnect()

        # What was acknowledged does not come again, and the sender hears of it.
        token = service.generate_sas_token(service.HUB, *self.hub_policy())
        feedback = requests.get(f"https://{service.HUB}/messages/serviceBound/feedback?api-version=2021-04-12",
                                headers={"Authorization": token}, timeout=30)
        self.assertEqual([(f["originalMessageId"], f["statusCode"]) for f in feedback.json() if f["deviceId"] == rid], [("m/1 e", "Success")])
        self.assertEqual(self.hub.get_device(rid).cloud_to_device_message_count, 0)

    def test_refused(self):
        """a device with another's key hears over MQTT that it is not authorized"""
        rid = service.unique("refused")
        client = ProvisioningDeviceClient.create_from_symmetric_key(
            provisioning_host=service.DPS, registration_id=rid, id_scope=SCOPE, symmetric_key=derived(self.group_key, rid + "-2"),
            server_verification_cert=CA)
        with self.assertRaises(Exception) as refused:
            client.register()
        text = str(refused.exception) + str(refused.exception.__cause__)
        self.assertIn("status code 401", text)

    def test_takeover(self):
        """a second connection of a device takes over from the first"""
        rid, key = self.provisioned("takeover")
        first = IoTHubDeviceClient.create_from_symmetric_key(
            symmetric_key=key, hostname=service.HUB, device_id=rid, server_verification_cert=CA, auto_connect=False, connection_retry=False)
        lost = threading.Event()
        first.on_connection_state_change = lambda: first.connected or lost.set()
        first.connect()
        self.addCleanup(first.shutdown)
        second = self.connected(rid, key)
        self.assertTrue(lost.wait(10), "the first connection is still there")
        second.send_message("mine")
        self.assertEqual([m["body"] for m in messages(rid)], ["mine"])


if __name__ == "__main__":
    claims.main("__main__")
