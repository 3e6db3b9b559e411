"""Devices that register with the SDK for Python, in every way in which a device can
use it, and are heard by the hub that they were given."""

import sys
import unittest

from azure.iot.device import ProvisioningDeviceClient
from azure.iot.deviceprovisioning import DeviceProvisioningClient

import claims
import service
from kinds import CA, KINDS, SCOPE, Device, claims_of, messages


class Registration:
    def test_registration(self):
        """a device registers, and is heard by its hub"""
        device = self.kind.provisioned("register")
        device.do(device.client.connect)
        self.addCleanup(device.do, device.client.shutdown)
        device.do(device.client.send_message, "hello")
        self.assertEqual([m["body"] for m in messages(device.id)], ["hello"])


claims_of(Registration, sys.modules[__name__])


class Devices(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with DeviceProvisioningClient.from_connection_string(service.SERVICE) as operator:
            group = service.unique("devices")
            made = operator.enrollment_group.create_or_update(
                group, {"enrollmentGroupId": group, "attestation": {"type": "symmetricKey"}})
            cls.group_key = made["attestation"]["symmetricKey"]["primaryKey"]

    def register(self, rid, key):
        return ProvisioningDeviceClient.create_from_symmetric_key(
            provisioning_host=service.DPS, registration_id=rid, id_scope=SCOPE, symmetric_key=key, server_verification_cert=CA).register()

    def test_group(self):
        """a device of a group registers over MQTT with a key derived from the group's, and is heard by its hub"""
        rid = service.unique("member")
        key = service.derived(self.group_key, rid)
        self.assertEqual(self.register(rid, key).status, "assigned")
        device = Device(KINDS[0], rid, {"symmetric_key": key})
        device.client.connect()
        self.addCleanup(device.client.shutdown)
        device.client.send_message("hello")
        self.assertEqual([m["body"] for m in messages(rid)], ["hello"])

    def test_refused(self):
        """a device with another's key hears over MQTT that it is not authorized"""
        rid = service.unique("refused")
        with self.assertRaises(Exception) as refused:
            self.register(rid, service.derived(self.group_key, rid + "-2"))
        text = str(refused.exception) + str(refused.exception.__cause__)
        self.assertIn("status code 401", text)


if __name__ == "__main__":
    claims.main("__main__")
