"""An operator's programs at the hub, with its SDK for Python."""

import base64
import unittest

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties

import claims
import service


def key(letter):
    """A key that an operator chose."""
    return base64.b64encode(letter * 32).decode()


class Registry(unittest.TestCase):
    def setUp(self):
        self.hub = IoTHubRegistryManager((service.DATA / "hub.connection").read_text().strip())

    def refused(self, status, call, *args):
        with self.assertRaises(Exception) as caught:
            call(*args)
        self.assertEqual(caught.exception.response.status_code, status)

    def test_identity(self):
        """an operator creates, reads, disables, lists and deletes a device with keys"""
        device, primary, secondary = service.unique("identity"), key(b"p"), key(b"s")
        created = self.hub.create_device_with_sas(device, primary, secondary, "enabled")
        self.assertEqual(created.authentication.symmetric_key.primary_key, primary)
        self.refused(409, self.hub.create_device_with_sas, device, primary, secondary, "enabled")
        changed = self.hub.update_device_with_sas(device, created.etag, primary, secondary, "disabled", status_reason="lost")
        self.assertEqual((changed.status, changed.status_reason, changed.generation_id), ("disabled", "lost", created.generation_id))
        self.refused(412, self.hub.update_device_with_sas, device, created.etag, primary, secondary, "enabled")
        self.assertEqual(self.hub.get_device(device).status, "disabled")
        self.assertIn(device, [d.device_id for d in self.hub.get_devices(1000)])
        self.hub.delete_device(device)
        self.refused(404, self.hub.get_device, device)

    def test_certificate(self):
        """an operator creates and changes a device with thumbprints of its certificates"""
        device, one, other = service.unique("pinned"), "AB" * 32, "CD" * 32
        created = self.hub.create_device_with_x509(device, one, other, "enabled")
        self.addCleanup(self.hub.delete_device, device)
        self.assertEqual((created.authentication.type, created.authentication.x509_thumbprint.secondary_thumbprint), ("selfSigned", other))
        changed = self.hub.update_device_with_x509(device, created.etag, other, one, "enabled")
        self.assertEqual(changed.authentication.x509_thumbprint.primary_thumbprint, other)

    def test_statistics(self):
        """devices are counted"""
        before = self.hub.get_device_registry_statistics()
        device = service.unique("counted")
        self.hub.create_device_with_sas(device, key(b"p"), key(b"s"), "disabled")
        self.addCleanup(self.hub.delete_device, device)
        after = self.hub.get_device_registry_statistics()
        self.assertEqual(
            (after.total_device_count, after.enabled_device_count, after.disabled_device_count),
            (before.total_device_count + 1, before.enabled_device_count, before.disabled_device_count + 1))

    def test_twin(self):
        """an operator changes a device's twin under its etag, and replaces it"""
        device = service.unique("twin")
        self.hub.create_device_with_sas(device, key(b"p"), key(b"s"), "enabled")
        self.addCleanup(self.hub.delete_device, device)
        first = self.hub.get_twin(device)
        patched = self.hub.update_twin(device, Twin(tags={"site": "a"}, properties=TwinProperties(desired={"rate": 1})), first.etag)
        self.assertEqual((patched.tags, patched.properties.desired["rate"]), ({"site": "a"}, 1))
        self.refused(412, self.hub.update_twin, device, Twin(tags={"site": "b"}), first.etag)
        replaced = self.hub.replace_twin(device, Twin(tags={"line": 2}, properties=TwinProperties(desired={})), patched.etag)
        self.assertEqual(replaced.tags, {"line": 2})
        self.assertNotIn("rate", self.hub.get_twin(device).properties.desired)


if __name__ == "__main__":
    claims.main("__main__")
