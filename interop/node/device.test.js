'use strict';
// Devices over HTTPS with every kind of credential but the TPM's: each one
// registers with the SDK, and talks to its hub with what it got.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { Registry } = require('azure-iothub');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const berth = require('./lib/berth');
const { selfSigned, issue, thumbprint } = require('./lib/openssl');
const { withKey, withCertificate, assertAssigned, clientWithKey, clientWithCertificate, assertHeard } = require('./lib/devices');

const service = ProvisioningServiceClient.fromConnectionString(berth.serviceConnection);
const registry = Registry.fromConnectionString(berth.hubConnection);

const enroll = async (enrollment) => (await service.createOrUpdateIndividualEnrollment(enrollment)).responseBody;
const enrollGroup = async (group) => (await service.createOrUpdateEnrollmentGroup(group)).responseBody;
const symmetricKey = () => ({ type: 'symmetricKey' });
const signedBy = (certificate) => ({ type: 'x509', x509: { signingCertificates: { primary: { certificate } } } });

// refusedWith checks the status of the answer that made the SDK give up.
const refusedWith = (name, status, errorCode) => (err) => {
  assert.equal(err.name, name);
  assert.equal(err.response.statusCode, status);
  assert.equal(JSON.parse(err.responseBody).errorCode, errorCode);
  return true;
};

test('a device with a key of its own registers and is heard by its hub', async () => {
  const registrationId = berth.unique('key');
  const { attestation } = await enroll({
    registrationId, deviceId: 'pump-' + registrationId, attestation: symmetricKey(),
    initialTwin: { tags: { site: 'north' }, properties: { desired: { interval: 30 } } },
  });
  const key = attestation.symmetricKey.primaryKey;
  const client = withKey(registrationId, key);
  client.setProvisioningPayload({ model: 'X1' });
  const began = Date.now();
  const state = await client.register();
  const took = Date.now() - began;
  assertAssigned(state, registrationId, 'pump-' + registrationId);
  if (berth.answers === 'polled') assert.ok(took >= 1000, `was answered after ${took} ms, without polling`);
  await assertHeard(clientWithKey(state, key), state.deviceId, 'sas');

  const { responseBody: twin } = await registry.getTwin(state.deviceId);
  assert.equal(twin.tags.site, 'north');
  assert.equal(twin.properties.desired.interval, 30);
});

test('the secondary key is as good as the primary', async () => {
  const registrationId = berth.unique('secondary');
  const { attestation } = await enroll({ registrationId, attestation: symmetricKey() });
  const key = attestation.symmetricKey.secondaryKey;
  const state = await withKey(registrationId, key).register();
  assertAssigned(state, registrationId);
  await assertHeard(clientWithKey(state, key), state.deviceId, 'sas');
});

test('a device of a group registers with a key derived from the group\'s', async () => {
  const enrollmentGroupId = berth.unique('group');
  const { attestation } = await enrollGroup({ enrollmentGroupId, attestation: symmetricKey() });
  const registrationId = berth.unique('member');
  const key = berth.derivedKey(attestation.symmetricKey.primaryKey, registrationId);
  const state = await withKey(registrationId, key).register();
  assertAssigned(state, registrationId);
  await assertHeard(clientWithKey(state, key), state.deviceId, 'sas');
  await assert.rejects(withKey(berth.unique('greedy'), attestation.symmetricKey.primaryKey).register(),
    (err) => err.name === 'UnauthorizedError', 'the group\'s own key was taken for a device\'s');
});

test('a device with a self-signed certificate registers and is heard by its hub', async () => {
  const registrationId = berth.unique('selfsigned');
  const certificate = selfSigned(registrationId);
  await enroll({ registrationId, attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: certificate.cert } } } } });
  const state = await withCertificate(registrationId, certificate).register();
  assertAssigned(state, registrationId);
  await assertHeard(clientWithCertificate(state, certificate), state.deviceId, 'x509');

  const { responseBody: identity } = await registry.get(state.deviceId);
  assert.equal(identity.authentication.type, 'selfSigned');
  assert.equal(identity.authentication.x509Thumbprint.primaryThumbprint, thumbprint(certificate, 'sha256'));
});

test('a device whose chain leads over an intermediate to a group\'s root registers', async () => {
  const root = selfSigned(berth.unique('root'), { ca: true });
  const intermediate = issue(berth.unique('intermediate'), root, { ca: true });
  const registrationId = berth.unique('chained');
  const leaf = issue(registrationId, intermediate);
  await enrollGroup({ enrollmentGroupId: berth.unique('x509group'), attestation: signedBy(root.cert) });
  await assert.rejects(withCertificate(registrationId, leaf).register(),
    (err) => err.name === 'UnauthorizedError', 'a leaf was taken without the intermediate that leads to the root');

  const chain = { cert: leaf.cert + intermediate.cert, key: leaf.key };
  const state = await withCertificate(registrationId, chain).register();
  assertAssigned(state, registrationId);
  await assertHeard(clientWithCertificate(state, chain), state.deviceId, 'x509');
});

test('a leaf alone is enough where the group holds its issuer', async () => {
  const root = selfSigned(berth.unique('root'), { ca: true });
  const intermediate = issue(berth.unique('intermediate'), root, { ca: true });
  const registrationId = berth.unique('leaf');
  const leaf = issue(registrationId, intermediate);
  // Group certificates also come as base64 of the whole PEM file.
  await enrollGroup({ enrollmentGroupId: berth.unique('x509group'), attestation: signedBy(Buffer.from(intermediate.cert).toString('base64')) });
  const state = await withCertificate(registrationId, leaf).register();
  assertAssigned(state, registrationId);
  await assertHeard(clientWithCertificate(state, leaf), state.deviceId, 'x509');
});

test('a device that registers again keeps its hub and its identity', async () => {
  const registrationId = berth.unique('again');
  const { attestation } = await enroll({ registrationId, attestation: symmetricKey() });
  const key = attestation.symmetricKey.primaryKey;
  const first = await withKey(registrationId, key).register();
  const second = await withKey(registrationId, key).register();
  assertAssigned(second, registrationId);
  assert.equal(second.createdDateTimeUtc, first.createdDateTimeUtc);
  await assertHeard(clientWithKey(second, key), second.deviceId, 'sas');
});

test('a wrong key is refused with 401', async () => {
  const registrationId = berth.unique('wrong');
  await enroll({ registrationId, attestation: symmetricKey() });
  const wrong = Buffer.alloc(32, 7).toString('base64');
  await assert.rejects(withKey(registrationId, wrong).register(), refusedWith('UnauthorizedError', 401, 401002));
});

test('another certificate with the right name is refused with 401', async () => {
  const registrationId = berth.unique('double');
  const enrolled = selfSigned(registrationId);
  await enroll({ registrationId, attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: enrolled.cert } } } } });
  const double = selfSigned(registrationId);
  await assert.rejects(withCertificate(registrationId, double).register(), refusedWith('UnauthorizedError', 401, 401002));
});

test('an unknown device is refused', async () => {
  const key = Buffer.alloc(32, 9).toString('base64');
  await assert.rejects(withKey(berth.unique('unknown'), key).register(), (err) => {
    // With groups of symmetric keys about, no key of which fits, the answer is 401.
    assert.ok([401, 404].includes(err.response.statusCode), err.responseBody);
    return true;
  });
});

test('a device whose enrollment is disabled is told so', async () => {
  const registrationId = berth.unique('disabled');
  const { attestation } = await enroll({ registrationId, attestation: symmetricKey(), provisioningStatus: 'disabled' });
  await assert.rejects(withKey(registrationId, attestation.symmetricKey.primaryKey).register(), (err) => {
    assert.equal(err.message, 'status is disabled');
    assert.equal(err.result.registrationState.status, 'disabled');
    assert.equal(err.result.registrationState.registrationId, registrationId);
    return true;
  });
});

test('the hub refuses a device\'s message with another device\'s key', async () => {
  const states = [];
  for (const name of ['honest', 'thief']) {
    const registrationId = berth.unique(name);
    const { attestation } = await enroll({ registrationId, attestation: symmetricKey() });
    const key = attestation.symmetricKey.primaryKey;
    states.push({ ...await withKey(registrationId, key).register(), key });
  }
  const [honest, thief] = states;
  await assert.rejects(assertHeard(clientWithKey(honest, thief.key), honest.deviceId, 'sas'), (err) => err.name === 'UnauthorizedError');
  assert.deepEqual(await berth.messages(honest.deviceId), []);
});
