"""An operator's programs at the hub, with its SDK for Python."""

import base64
import unittest

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import (
    AuthenticationMechanism, ExportImportDevice, QuerySpecification, SymmetricKey, Twin, TwinProperties,
)

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

    def test_bulk(self):
        """devices are created, changed and deleted many at a time, and each that could not be is reported"""
        devices = [service.unique("bulk") for _ in range(3)]
        authentication = AuthenticationMechanism(type="sas", symmetric_key=SymmetricKey(primary_key=key(b"p"), secondary_key=key(b"s")))

        def run(mode, ids, status="enabled", **members):
            return self.hub.bulk_create_or_update_devices(
                [ExportImportDevice(id=i, import_mode=mode, status=status, authentication=authentication, **members) for i in ids])
        made = run("create", devices, tags={"site": "a"})
        self.assertEqual((made.is_successful, made.errors), (True, []))
        self.assertEqual(self.hub.get_device(devices[0]).authentication.symmetric_key.primary_key, key(b"p"))
        again = run("create", devices[:1])
        self.assertFalse(again.is_successful)
        self.assertEqual([(e.device_id, str(e.error_code)) for e in again.errors], [(devices[0], "409001")])
        self.assertTrue(run("update", devices, "disabled").is_successful)
        self.assertEqual(self.hub.get_device(devices[1]).status, "disabled")
        self.assertFalse(run("updateIfMatchETag", devices[:1], e_tag="bm90IGl0").is_successful)
        self.assertTrue(run("delete", devices).is_successful)
        self.refused(404, self.hub.get_device, devices[2])

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

    def test_query(self):
        """a query finds the twins of devices page by page, or what it selects of them"""
        site = service.unique("site")
        devices = [service.unique("found") for _ in range(5)]
        for floor, device in enumerate(devices):
            self.hub.create_device_with_sas(device, key(b"p"), key(b"s"), "enabled")
            self.addCleanup(self.hub.delete_device, device)
            self.hub.update_twin(device, Twin(tags={"site": site}, properties=TwinProperties(desired={"floor": floor})), "*")

        def pages(query, size):
            found, token = [], None
            while not found or token:
                page = self.hub.query_iot_hub(QuerySpecification(query=query), token, size)
                found.append(page)
                token = page.continuation_token
            return found
        twins = pages(f"SELECT * FROM devices WHERE tags.site = '{site}'", 2)
        self.assertTrue(len(twins) >= 3 and all(page.type == "Twin" and len(page.items) <= 2 for page in twins))
        found = [twin for page in twins for twin in page.items]
        self.assertEqual(sorted(twin.device_id for twin in found), sorted(devices))
        self.assertEqual({twin.properties.desired["floor"] for twin in found}, set(range(5)))
        [page] = pages(f"SELECT deviceId FROM devices WHERE tags.site = '{site}' AND properties.desired.floor IN [1, 2]", 100)
        self.assertEqual((page.type, sorted(twin.device_id for twin in page.items)), ("Raw", sorted(devices[1:3])))
        self.refused(400, self.hub.query_iot_hub, QuerySpecification(query="SELECT FROM WHERE"))


if __name__ == "__main__":
    claims.main("__main__")
