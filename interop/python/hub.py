"""The life of a device on its hub with the SDK for Python, for every way in which
a device can use it."""

import asyncio
import json
import queue
import sys
import threading
import unittest

import requests
from azure.iot.device import Message
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, QuerySpecification, Twin, TwinProperties

import claims
import service
from kinds import KINDS, claims_of, messages, send, until

CONNECTION = (service.DATA / "hub.connection").read_text().strip()
POLICY = dict(part.split("=", 1) for part in CONNECTION.split(";"))
OPERATOR = IoTHubRegistryManager(CONNECTION)
REBOOT = CloudToDeviceMethod(method_name="reboot", payload={"in": 5}, response_timeout_in_seconds=10)


def desire(rid, properties):
    """Change the desired properties of a device as an operator does."""
    OPERATOR.update_twin(rid, Twin(properties=TwinProperties(desired=properties)), "*")


class Life:
    def connected(self, what):
        device = self.kind.provisioned(what)
        self.connect(device, device.client)
        return device

    def connect(self, device, client):
        device.do(client.connect)
        self.addCleanup(device.do, client.shutdown)

    def test_telemetry(self):
        """a device's message is at its hub with all properties"""
        device = self.connected("telemetry")
        message = Message(json.dumps({"temperature": 21.5, "unit": "°C"}))
        message.message_id, message.correlation_id = "m/1", "c 1"
        message.content_type, message.content_encoding = "application/json", "utf-8"
        message.custom_properties["alarm"] = "no & no=yes/+%"
        device.do(device.client.send_message, message)
        heard = messages(device.id)
        self.assertEqual([m["body"] for m in heard], [message.data])
        self.assertEqual(heard[0]["properties"], {"alarm": "no & no=yes/+%"})
        system = heard[0]["systemProperties"]
        self.assertEqual(
            [system[p] for p in ("message-id", "correlation-id", "content-type", "content-encoding", "connection-device-id")],
            ["m/1", "c 1", "application/json", "utf-8", device.id])
        self.assertEqual(json.loads(system["connection-auth-method"])["type"], self.kind.credential.auth)

    def test_twin(self):
        """a device reads its twin, and its operator sees what it reports"""
        device = self.connected("report")
        desire(device.id, {"rate": 1})
        device.do(device.client.patch_twin_reported_properties, {"firmware": "1.2", "net": {"mac": "00:11"}})
        self.assertEqual(device.do(device.client.get_twin), {
            "desired": {"rate": 1, "$version": 2}, "reported": {"firmware": "1.2", "net": {"mac": "00:11"}, "$version": 2}})
        self.assertEqual(OPERATOR.get_twin(device.id).properties.reported["firmware"], "1.2")

    def test_desired(self):
        """a device hears what its operator changes of its desired properties"""
        device = self.connected("desired")
        patches = queue.Queue()
        device.client.on_twin_desired_properties_patch_received = patches.put_nowait
        device.do(device.client.get_twin)
        desire(device.id, {"rate": 1, "net": {"a": 1}})
        self.assertEqual(patches.get(timeout=10), {"rate": 1, "net": {"a": 1}, "$version": 2})
        desire(device.id, {"net": {"a": None}})
        self.assertEqual(patches.get(timeout=10), {"net": {"a": None}, "$version": 3})

    def test_method(self):
        """an operator calls a method of a device, and hears when it is not there"""
        device = self.kind.provisioned("method")
        with self.assertRaises(Exception) as absent:
            OPERATOR.invoke_device_method(device.id, REBOOT)
        self.assertEqual(absent.exception.response.status_code, 404)
        self.connect(device, device.client)
        device.answers()
        result = OPERATOR.invoke_device_method(device.id, REBOOT)
        self.assertEqual((result.status, result.payload), (207, {"name": "reboot", "got": {"in": 5}}))

    def test_messages(self):
        """a device receives and completes what waited for it and what is sent with berth hub send, with properties"""
        device = self.kind.provisioned("bound")
        send(device.id, "waited", "--message-id", "m/1 e", "--content-type", "text/plain", "--ack", "full",
             "--property", "zone=no & no=yes/+%$#", "--property", "Unit=a b")
        heard = queue.Queue()
        self.connect(device, device.client)
        device.client.on_message_received = heard.put_nowait
        first = heard.get(timeout=10)
        self.assertEqual((first.data, first.custom_properties), (b"waited", {"zone": "no & no=yes/+%$#", "Unit": "a b"}))
        self.assertEqual((first.message_id, first.content_type, first.ack), ("m/1 e", "text/plain", "full"))
        send(device.id, "at once")
        self.assertEqual(heard.get(timeout=10).data, b"at once")
        until("both are completed", lambda: OPERATOR.get_device(device.id).cloud_to_device_message_count == 0)
        self.assertTrue(heard.empty())

    def test_takeover(self):
        """a second connection of a device takes over, the first is closed, and no other device notices"""
        device, bystander = self.kind.provisioned("taken"), self.kind.provisioned("bystander")
        lost = {}
        for name, owner in (("first", device), ("second", device), ("bystander", bystander)):
            client = owner.another(auto_connect=False, connection_retry=False)
            lost[name] = threading.Event()
            client.on_connection_state_change = lambda client=client, lost=lost[name]: client.connected or lost.set()
            self.connect(owner, client)
            owner.do(client.send_message, name)
            owner.client = client
        self.assertTrue(lost["first"].wait(10), "the first connection is still there")
        for owner in (device, bystander):
            owner.answers()
            self.assertEqual(OPERATOR.invoke_device_method(owner.id, REBOOT).status, 207)
            owner.do(owner.client.send_message, "still here")
        self.assertEqual([m["body"] for m in messages(device.id)], ["first", "second", "still here"])
        self.assertEqual([m["body"] for m in messages(bystander.id)], ["bystander", "still here"])
        self.assertEqual([name for name, event in lost.items() if event.is_set()], ["first"])


claims_of(Life, sys.modules[__name__])


class Throng(unittest.TestCase):
    def test_many(self):
        """a device with the SDK's asynchronous client sends many messages at once, and none is lost"""
        device = next(kind for kind in KINDS if kind.api.name == "asynchronous").provisioned("throng")
        device.do(device.client.connect)
        self.addCleanup(device.do, device.client.shutdown)

        async def throng():
            await asyncio.gather(*(device.client.send_message(str(n)) for n in range(100)))
        device.do(throng)
        self.assertEqual(sorted(int(m["body"]) for m in messages(device.id)), list(range(100)))

    def test_connected(self):
        """devices that are connected are shown and counted as that"""
        def counted_as_shown():  # devices of other claims come and go
            query = QuerySpecification(query="SELECT * FROM devices WHERE connectionState = 'Connected'")
            return OPERATOR.get_service_statistics().connected_device_count == len(OPERATOR.query_iot_hub(query, None, 1000).items)

        state = lambda: OPERATOR.get_device(device.id).connection_state
        device = KINDS[0].provisioned("connected")
        self.assertEqual(state(), "Disconnected")
        device.client.connect()
        self.addCleanup(device.client.shutdown)
        until("it is connected", lambda: state() == "Connected" and counted_as_shown())
        device.client.disconnect()
        until("it is not connected", lambda: state() == "Disconnected" and counted_as_shown())

    def test_model(self):
        """the model that a device says it follows is in its twin"""
        device = KINDS[0].provisioned("model")
        client = device.another(product_info="dtmi:example:Pump;1")
        client.connect()
        self.addCleanup(client.shutdown)
        [twin] = OPERATOR.query_iot_hub(QuerySpecification(query=f"SELECT * FROM devices WHERE deviceId = '{device.id}' AND modelId = 'dtmi:example:Pump;1'")).items
        self.assertEqual(twin.device_id, device.id)

    def test_feedback(self):
        """the sender of a message hears that the device took it"""
        device = KINDS[0].provisioned("feedback")
        heard = queue.Queue()
        device.client.on_message_received = heard.put_nowait
        self.addCleanup(device.client.shutdown)
        send(device.id, "noted", "--message-id", "m/1 e", "--ack", "full")
        heard.get(timeout=10)
        until("it is completed", lambda: OPERATOR.get_device(device.id).cloud_to_device_message_count == 0)
        token = service.generate_sas_token(service.HUB, POLICY["SharedAccessKeyName"], POLICY["SharedAccessKey"])
        feedback = requests.get(f"https://{service.HUB}/messages/serviceBound/feedback?api-version=2021-04-12",
                                headers={"Authorization": token}, timeout=30)
        self.assertEqual([(f["originalMessageId"], f["statusCode"]) for f in feedback.json() if f["deviceId"] == device.id], [("m/1 e", "Success")])

if __name__ == "__main__":
    claims.main("__main__")
