"""Modules: an operator gives a device some, and each has a connection, a twin and
methods of its own."""

import itertools
import queue
import unittest

from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient, Message
from azure.iot.device.aio import IoTHubModuleClient as AsyncModuleClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties

import claims
import service
from kinds import CA, Async, Sync, certificate, command, messages
from registry import key

OPERATOR = IoTHubRegistryManager((service.DATA / "hub.connection").read_text().strip())
SHOOT = CloudToDeviceMethod(method_name="shoot", payload={"count": 2}, response_timeout_in_seconds=10)


class Claims(unittest.TestCase):
    def refused(self, status, call, *args):
        with self.assertRaises(Exception) as caught:
            call(*args)
        self.assertEqual(caught.exception.response.status_code, status)

    def device(self, what):
        device = service.unique(what)
        OPERATOR.create_device_with_sas(device, key(b"p"), key(b"s"), "enabled")
        return device


class Registry(Claims):
    def test_identity(self):
        """an operator creates, reads, changes, lists and deletes modules"""
        device = self.device("identity")
        created = OPERATOR.create_module_with_sas(device, "camera", "operator", key(b"a"), key(b"b"))
        self.assertEqual((created.module_id, created.managed_by, created.authentication.symmetric_key.primary_key), ("camera", "operator", key(b"a")))
        self.refused(409, OPERATOR.create_module_with_sas, device, "camera", "operator", key(b"a"), key(b"b"))
        lock = OPERATOR.create_module_with_x509(device, "lock", "operator", "AB" * 32, "CD" * 32)
        self.assertEqual(lock.authentication.x509_thumbprint.primary_thumbprint, "AB" * 32)
        self.assertEqual(sorted(m.module_id for m in OPERATOR.get_modules(device)), ["camera", "lock"])
        changed = OPERATOR.update_module_with_sas(device, "camera", "nobody", created.etag, key(b"c"), key(b"d"))
        self.assertEqual((changed.managed_by, changed.authentication.symmetric_key.primary_key), ("nobody", key(b"c")))
        self.refused(412, OPERATOR.update_module_with_sas, device, "camera", "again", created.etag, key(b"c"), key(b"d"))
        self.assertEqual(OPERATOR.get_module(device, "camera").managed_by, "nobody")
        OPERATOR.delete_module(device, "camera")
        self.refused(404, OPERATOR.get_module, device, "camera")
        OPERATOR.delete_device(device)
        self.refused(404, OPERATOR.get_module, device, "lock")

    def test_twin(self):
        """an operator changes a module's twin under its etag, and replaces it"""
        device = self.device("twin")
        OPERATOR.create_module_with_sas(device, "camera", "", key(b"a"), key(b"b"))
        first = OPERATOR.get_module_twin(device, "camera")
        self.assertEqual((first.device_id, first.module_id), (device, "camera"))
        patched = OPERATOR.update_module_twin(device, "camera", Twin(tags={"lens": "wide"}, properties=TwinProperties(desired={"zoom": 1})), first.etag)
        self.assertEqual((patched.tags, patched.properties.desired["zoom"]), ({"lens": "wide"}, 1))
        self.refused(412, OPERATOR.update_module_twin, device, "camera", Twin(tags={"lens": "none"}), first.etag)
        replaced = OPERATOR.replace_module_twin(device, "camera", Twin(tags={"line": 2}, properties=TwinProperties(desired={})), patched.etag)
        self.assertEqual(replaced.tags, {"line": 2})
        self.assertNotIn("zoom", OPERATOR.get_module_twin(device, "camera").properties.desired)
        self.assertNotIn("zoom", OPERATOR.get_twin(device).properties.desired)

    def test_authority(self):
        """devices and modules whose certificates a CA vouches for that their operator proved come to their hub"""
        device = service.unique("vouched")
        root, root_key = certificate(device + "-root", device + " root", "-addext", "keyUsage=critical,keyCertSign")
        command("ca", "prove", device, "--key", str(root_key), "--certificate", str(root))
        issue = lambda file, name: X509(*map(str, certificate(file, name, "-CA", str(root), "-CAkey", str(root_key), "-addext", "basicConstraints=critical,CA:FALSE")))
        OPERATOR.create_device_with_certificate_authority(device, "enabled")
        OPERATOR.create_module_with_certificate_authority(device, "camera", "")
        common = {"hostname": service.HUB, "device_id": device, "server_verification_cert": CA}
        for client in (
            IoTHubDeviceClient.create_from_x509_certificate(x509=issue(device, device), **common),
            IoTHubModuleClient.create_from_x509_certificate(x509=issue(device + "-camera", device + "/camera"), module_id="camera", **common),
        ):
            client.connect()
            self.addCleanup(client.shutdown)
            client.send_message("here")
        heard = [m["systemProperties"] for m in messages(device)]
        self.assertEqual([m.get("connection-module-id") for m in heard], [None, "camera"])


class Life(Claims):
    """Modules with a key, for each of the SDK's clients and wires."""

    api, websockets = None, None

    def shortDescription(self):
        return f"{'MQTT in a WebSocket' if self.websockets else 'MQTT'}, {self.api.name}: {self._testMethodDoc}"

    def camera(self, what):
        """A module and a client of its own, connected."""
        device = self.device(what)
        OPERATOR.create_module_with_sas(device, "camera", "", key(b"a"), key(b"b"))
        connection = f"HostName={service.HUB};DeviceId={device};ModuleId=camera;SharedAccessKey={key(b'a')}"
        client = self.api.make(lambda: (IoTHubModuleClient if isinstance(self.api, Sync) else AsyncModuleClient).create_from_connection_string(
            connection, server_verification_cert=CA, websockets=self.websockets))
        return device, client

    def connect(self, client):
        self.api.do(client.connect)
        self.addCleanup(self.api.do, client.shutdown)

    def test_telemetry(self):
        """what a module sends is at the hub under its name, with all properties"""
        device, client = self.camera("telemetry")
        self.connect(client)
        message = Message("a picture")
        message.message_id, message.content_type, message.content_encoding = "m 1", "text/plain", "utf-8"
        message.custom_properties["alarm"] = "false"
        self.api.do(client.send_message, message)
        self.api.do(client.send_message_to_output, "another picture", "pictures")
        first, second = messages(device)
        self.assertEqual((first["body"], first["properties"], second["body"]), ("a picture", {"alarm": "false"}, "another picture"))
        system = first["systemProperties"]
        self.assertEqual((system["connection-device-id"], system["connection-module-id"], system["message-id"], system["content-type"]),
                         (device, "camera", "m 1", "text/plain"))
        self.assertEqual(second["systemProperties"]["output-name"], "pictures")

    def test_twin(self):
        """a module reads its twin, reports, and hears what its operator desires of it"""
        device, client = self.camera("twin")
        self.connect(client)
        patches = queue.Queue()
        client.on_twin_desired_properties_patch_received = patches.put_nowait
        self.api.do(client.patch_twin_reported_properties, {"lens": "wide"})
        self.assertEqual(self.api.do(client.get_twin), {"desired": {"$version": 1}, "reported": {"lens": "wide", "$version": 2}})
        OPERATOR.update_module_twin(device, "camera", Twin(properties=TwinProperties(desired={"zoom": 4})), "*")
        self.assertEqual(patches.get(timeout=10), {"zoom": 4, "$version": 2})
        self.assertEqual(OPERATOR.get_module_twin(device, "camera").properties.reported["lens"], "wide")
        self.assertNotIn("lens", OPERATOR.get_twin(device).properties.reported)

    def test_method(self):
        """an operator calls a method of a module, and not of its device"""
        device, client = self.camera("method")
        self.refused(404, OPERATOR.invoke_device_module_method, device, "camera", SHOOT)
        self.connect(client)
        client.on_method_request_received = self.api.answering(client)
        result = OPERATOR.invoke_device_module_method(device, "camera", SHOOT)
        self.assertEqual((result.status, result.payload), (207, {"name": "shoot", "got": {"count": 2}}))
        self.refused(404, OPERATOR.invoke_device_method, device, SHOOT)


for api, websockets in itertools.product((Sync(), Async()), (False, True)):
    name = f"Life_{api.name}_{websockets}"
    vars()[name] = type(name, (Life,), {"__module__": __name__, "api": api, "websockets": websockets})
del Life  # which is of no kind itself

if __name__ == "__main__":
    claims.main("__main__")
