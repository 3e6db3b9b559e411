'use strict';
// Devices that register over MQTT and over MQTT in a WebSocket, and come to the
// hub that they were given over the same wire.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const berth = require('./lib/berth');
const { selfSigned, issue } = require('./lib/openssl');
const { withKey, withCertificate, assertAssigned, clientWithKey, clientWithCertificate, assertHeard } = require('./lib/devices');
const { wires } = require('./lib/wires');

const service = ProvisioningServiceClient.fromConnectionString(berth.serviceConnection);

// enrolled returns a new registration ID and the key of its enrollment.
async function enrolled(what, members = {}) {
  const registrationId = berth.unique(what);
  const { responseBody } = await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'symmetricKey' }, ...members });
  return { registrationId, key: responseBody.attestation.symmetricKey.primaryKey };
}

// refused checks the body of the answer that made the SDK give up.
const refused = (name, errorCode) => (err) => {
  assert.equal(err.name, name);
  assert.equal(JSON.parse(err.responseBody ?? JSON.stringify(err.result)).errorCode, errorCode);
  return true;
};

for (const wire of wires) {
  test(`${wire.name}: a device with a key registers, and its message reaches the hub with all properties`, async () => {
    const { registrationId, key } = await enrolled(wire.short + '-key', { initialTwin: { properties: { desired: { interval: 30 } } } });
    const client = withKey(registrationId, key, wire.Provisioning);
    client.setProvisioningPayload({ model: 'X1' });
    const began = Date.now();
    const state = await client.register();
    assertAssigned(state, registrationId);
    if (berth.answers === 'polled') assert.ok(Date.now() - began >= 1000, 'was answered without polling');
    await assertHeard(clientWithKey(state, key, wire.Hub), state.deviceId, 'sas');
  });

  test(`${wire.name}: a device of a group with a derived key, and one with a certificate below an intermediate, come to their hub`, async () => {
    const enrollmentGroupId = berth.unique(wire.short + '-group');
    const { responseBody } = await service.createOrUpdateEnrollmentGroup({ enrollmentGroupId, attestation: { type: 'symmetricKey' } });
    const member = berth.unique(wire.short + '-member');
    const key = berth.derivedKey(responseBody.attestation.symmetricKey.primaryKey, member);
    const derived = await withKey(member, key, wire.Provisioning).register();
    assertAssigned(derived, member);
    await assertHeard(clientWithKey(derived, key, wire.Hub), member, 'sas');

    const root = selfSigned(berth.unique('root'), { ca: true });
    const intermediate = issue(berth.unique('intermediate'), root, { ca: true });
    await service.createOrUpdateEnrollmentGroup({
      enrollmentGroupId: berth.unique(wire.short + '-x509group'),
      attestation: { type: 'x509', x509: { signingCertificates: { primary: { certificate: root.cert } } } },
    });
    const chained = berth.unique(wire.short + '-chained');
    const leaf = issue(chained, intermediate);
    const certificate = { cert: leaf.cert + intermediate.cert, key: leaf.key };
    const state = await withCertificate(chained, certificate, wire.Provisioning).register();
    assertAssigned(state, chained);
    await assertHeard(clientWithCertificate(state, certificate, wire.Hub), chained, 'x509');
  });

  test(`${wire.name}: a device with another's key is refused, in words of the service and by its hub`, async () => {
    const honest = await enrolled(wire.short + '-honest');
    const thief = await enrolled(wire.short + '-thief');
    await assert.rejects(withKey(honest.registrationId, thief.key, wire.Provisioning).register(), refused('UnauthorizedError', 401002));
    const state = await withKey(honest.registrationId, honest.key, wire.Provisioning).register();
    await assert.rejects(clientWithKey(state, thief.key, wire.Hub).open(), (err) => err.name === 'UnauthorizedError');
  });
}
