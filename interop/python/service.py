"""An operator's programs at the provisioning service, with its SDK for Python,
which was generated from the published description of the service API."""

import base64
import hashlib
import hmac
import os
import subprocess
import sys
import unittest
from pathlib import Path

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.iot.deviceprovisioning import DeviceProvisioningClient, generate_sas_token

import requests

import claims

DPS, HUB = os.environ["BERTH_DPS"], os.environ["BERTH_HUB"]
DATA, SCRATCH = Path(os.environ["BERTH_DATA"]), Path(os.environ["BERTH_SCRATCH"])
SERVICE = (DATA / "service.connection").read_text().strip()
POLICY = dict(part.split("=", 1) for part in SERVICE.split(";"))

_made = 0


def unique(what):
    """A registration ID that no other claim has used."""
    global _made
    _made += 1
    return f"python-{Path(sys.argv[0]).stem}-{what}-{os.environ['BERTH_ANSWERS']}-{_made}"


def self_signed(name):
    """A certificate for the name, as PEM text, made by OpenSSL."""
    path = SCRATCH / (name + ".pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", os.devnull, "-out", str(path), "-days", "2", "-subj", "/CN=" + name],
        check=True, capture_output=True)
    return path.read_text()


class Provisioning(unittest.TestCase):
    def setUp(self):
        self.client = DeviceProvisioningClient.from_connection_string(SERVICE)
        self.addCleanup(self.client.close)

    def refused(self, status, code, call, *args, **kwargs):
        with self.assertRaises(HttpResponseError) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.status_code, status)
        self.assertIn(str(code), str(caught.exception.response.text()))

    def test_enrollment_life(self):
        """an individual enrollment is created, read, changed under its etag and deleted"""
        rid = unique("life")
        wanted = {
            "registrationId": rid, "deviceId": rid + "-at-hub", "attestation": {"type": "symmetricKey"},
            "capabilities": {"iotEdge": True}, "allocationPolicy": "static", "iotHubs": [HUB],
            "initialTwin": {"tags": {"site": "a"}, "properties": {"desired": {"rate": 1}}},
            "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": False},
            "optionalDeviceInformation": {"line": {"number": 7}}, "provisioningStatus": "enabled",
        }
        created = self.client.enrollment.create_or_update(rid, wanted)
        keys = created["attestation"]["symmetricKey"]
        self.assertNotEqual(keys["primaryKey"], keys["secondaryKey"])
        read = self.client.enrollment.get(rid)
        for member, value in wanted.items():
            if member != "attestation":
                self.assertEqual(read[member], value, member)
        self.assertNotIn("primaryKey", str(read))
        self.assertEqual(read["registrationState"]["status"], "unassigned")
        self.assertEqual(self.client.enrollment.get_attestation_mechanism(rid)["symmetricKey"], keys)

        self.refused(409, 409201, self.client.enrollment.create_or_update, rid, wanted)
        self.refused(412, 412, self.client.enrollment.create_or_update, rid, read, if_match='"another"')
        read["provisioningStatus"] = "disabled"
        changed = self.client.enrollment.create_or_update(rid, read, if_match=read["etag"])
        self.assertEqual(changed["provisioningStatus"], "disabled")
        self.assertNotEqual(changed["etag"], read["etag"])
        self.assertEqual(changed["createdDateTimeUtc"], created["createdDateTimeUtc"])
        self.assertEqual(self.client.enrollment.get_attestation_mechanism(rid)["symmetricKey"], keys)

        self.refused(412, 412, self.client.enrollment.delete, rid, if_match=read["etag"])
        self.client.enrollment.delete(rid, if_match=changed["etag"])
        with self.assertRaises(ResourceNotFoundError):
            self.client.enrollment.get(rid)

    def test_certificates(self):
        """a certificate is shown by what it says and never whole"""
        rid = unique("x509")
        certificate = self_signed(rid)
        created = self.client.enrollment.create_or_update(rid, {
            "registrationId": rid,
            "attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": certificate}}}},
        })
        shown = created["attestation"]["x509"]["clientCertificates"]["primary"]
        self.assertEqual(shown["info"]["subjectName"], "CN=" + rid)
        self.assertFalse(shown.get("certificate"))
        self.assertEqual(shown["info"]["sha256Thumbprint"], shown["info"]["sha256Thumbprint"].upper())
        again = self.client.enrollment.create_or_update(rid, created, if_match="*")
        self.assertEqual(again["attestation"]["x509"]["clientCertificates"]["primary"]["info"], shown["info"])

    def test_bulk(self):
        """bulk operations in every mode report each enrollment that could not be done"""
        first, second = unique("bulk"), unique("bulk")
        make = [{"registrationId": i, "attestation": {"type": "symmetricKey"}} for i in (first, second)]
        run = lambda mode, enrollments: self.client.enrollment.run_bulk_operation({"mode": mode, "enrollments": enrollments})
        self.assertTrue(run("create", make)["isSuccessful"])
        again = run("create", make[:1])
        self.assertFalse(again["isSuccessful"])
        self.assertEqual([(e["registrationId"], e["errorCode"]) for e in again["errors"]], [(first, 409201)])
        read = [self.client.enrollment.get(i) for i in (first, second)]
        for e in read:
            del e["registrationState"]
            e["provisioningStatus"] = "disabled"
        self.assertTrue(run("updateIfMatchETag", read)["isSuccessful"])
        stale = run("updateIfMatchETag", read)
        self.assertEqual(len(stale["errors"]), 2)
        for i in (first, second):
            self.assertEqual(self.client.enrollment.get(i)["provisioningStatus"], "disabled")
        self.assertTrue(run("delete", make)["isSuccessful"])
        with self.assertRaises(ResourceNotFoundError):
            self.client.enrollment.get(first)

        groups = [{"enrollmentGroupId": unique("bulk-group"), "attestation": {"type": "symmetricKey"}} for _ in range(2)]
        run = lambda mode: self.client.enrollment_group.run_bulk_operation({"mode": mode, "enrollmentGroups": groups})
        self.assertTrue(run("create")["isSuccessful"])
        self.assertEqual([e["errorCode"] for e in run("create")["errors"]], [409201, 409201])
        self.assertTrue(run("delete")["isSuccessful"])

    def test_query(self):
        """queries find every enrollment and group, page by page, without keys"""
        prefix = unique("query")
        ids = {f"{prefix}-{n}" for n in range(7)}
        for i in ids:
            self.client.enrollment.create_or_update(i, {"registrationId": i, "attestation": {"type": "symmetricKey"}})
            self.client.enrollment_group.create_or_update(
                i, {"enrollmentGroupId": i, "attestation": {"type": "symmetricKey"}})
        for operations, member in ((self.client.enrollment, "registrationId"), (self.client.enrollment_group, "enrollmentGroupId")):
            pages = [list(p) for p in operations.query({"query": "SELECT *"}, top=3).by_page()]
            self.assertTrue(all(len(p) <= 3 for p in pages))
            found = [e for p in pages for e in p]
            self.assertEqual({e[member] for e in found if e[member].startswith(prefix)}, ids)
            self.assertEqual(len({e[member] for e in found}), len(found))
            self.assertNotIn("primaryKey", str(found))
        for i in ids:
            self.client.enrollment.delete(i)
            self.client.enrollment_group.delete(i)

    def test_registration_states(self):
        """registration states are read, listed by group and deleted"""
        group = unique("states")
        made = self.client.enrollment_group.create_or_update(
            group, {"enrollmentGroupId": group, "attestation": {"type": "symmetricKey"}})
        key = made["attestation"]["symmetricKey"]["primaryKey"]
        ids = [unique("state") for _ in range(3)]
        for i in ids:
            register(i, derived(key, i))
        states = self.client.device_registration_state
        listed = [s for p in states.query(group, top=2).by_page() for s in p]
        self.assertEqual(sorted(s["registrationId"] for s in listed), sorted(ids))
        state = states.get(ids[0])
        self.assertEqual((state["status"], state["assignedHub"], state["deviceId"], state["substatus"]),
                         ("assigned", HUB, ids[0], "initialAssignment"))
        self.refused(412, 412, states.delete, ids[0], if_match="ImFub3RoZXIi")
        states.delete(ids[0], if_match=state["etag"])
        with self.assertRaises(ResourceNotFoundError):
            states.get(ids[0])
        self.assertEqual(len([s for p in states.query(group).by_page() for s in p]), 2)

    def test_credentials(self):
        """named keys and ready-made tokens are accepted, a wrong key is refused"""
        name, key = POLICY["SharedAccessKeyName"], POLICY["SharedAccessKey"]
        for endpoint, credential in (
            (DPS, AzureNamedKeyCredential(name, key)),
            ("https://" + DPS, AzureNamedKeyCredential(name, key)),
            (DPS, AzureSasCredential(generate_sas_token(DPS, name, key))),
        ):
            with DeviceProvisioningClient(endpoint, credential) as client:
                list(client.enrollment.query({"query": "SELECT *"}, top=1).by_page())
        wrong = base64.b64encode(bytes(32)).decode()
        with DeviceProvisioningClient(DPS, AzureNamedKeyCredential(name, wrong)) as client:
            self.refused(401, 401002, client.enrollment.get, "any")


def derived(key, registration_id):
    """The key of a device of an enrollment group."""
    return base64.b64encode(hmac.digest(base64.b64decode(key), registration_id.encode(), hashlib.sha256)).decode()


def register(registration_id, key):
    """Register a device over HTTPS: what this SDK's own devices do over MQTT."""
    scope = os.environ["BERTH_ID_SCOPE"]
    token = generate_sas_token(f"{scope}/registrations/{registration_id}", "registration", key)
    answer = requests.put(
        f"https://{DPS}/{scope}/registrations/{registration_id}/register?api-version=2021-06-01",
        json={"registrationId": registration_id}, headers={"Authorization": token}, timeout=10)
    assert answer.status_code == 202, answer.text


if __name__ == "__main__":
    claims.main("__main__")
