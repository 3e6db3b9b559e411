'use strict';
// Devices with a TPM 2.0: the SDK's TPM client makes the keys in a software
// TPM, answers the service's challenge there, and signs the hub's tokens with
// a key that never leaves it.

const assert = require('node:assert/strict');
const { test, before, after } = require('node:test');
const { promisify } = require('node:util');
const { TpmSecurityClient } = require('azure-iot-security-tpm');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { Registry } = require('azure-iothub');
const berth = require('./lib/berth');
const softwareTpm = require('./lib/software-tpm');
const { provisioning, assertAssigned, clientWithTpm, assertHeard } = require('./lib/devices');

const service = ProvisioningServiceClient.fromConnectionString(berth.serviceConnection);
const registry = Registry.fromConnectionString(berth.hubConnection);

let tpm;
before(async () => { tpm = await softwareTpm.start('tpm-' + berth.answers); });
after(() => tpm?.stop());

// withSecurity runs a test with the SDK's TPM client, and lets go of the TPM.
async function withSecurity(registrationId, run) {
  const security = new TpmSecurityClient(registrationId);
  try {
    return await run(security, async (name) => promisify(security[name]).call(security));
  } finally {
    security._tpm.close(); // the client has no public way to leave
  }
}

const enroll = async (registrationId, endorsementKey, storageRootKey) => {
  const tpm = { endorsementKey: endorsementKey.toString('base64') };
  if (storageRootKey) tpm.storageRootKey = storageRootKey.toString('base64');
  return service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'tpm', tpm } });
};

test('a device with a TPM registers under the name its endorsement key gives it, and signs for its hub', () =>
  withSecurity(undefined, async (security, ask) => {
    const registrationId = await ask('getRegistrationId');
    assert.match(registrationId, /^[a-z2-7]{52}$/);
    await enroll(registrationId, await ask('getEndorsementKey'));
    const { registrationState: state } = await provisioning(security).register();
    assertAssigned(state, registrationId);
    assert.ok(state.tpm.authenticationKey.length > 0);
    await assertHeard(clientWithTpm(state, security), state.deviceId, 'sas');
  }));

test('registering again gives the TPM a new key for the hub, and ends the old one', () =>
  withSecurity(berth.unique('tpm'), async (security, ask) => {
    const registrationId = await ask('getRegistrationId');
    await enroll(registrationId, await ask('getEndorsementKey'), await ask('getStorageRootKey'));
    const keys = [];
    let state;
    for (let i = 0; i < 2; i++) {
      ({ registrationState: state } = await provisioning(security).register());
      assertAssigned(state, registrationId);
      const { responseBody: identity } = await registry.get(state.deviceId);
      keys.push(identity.authentication.symmetricKey.primaryKey);
    }
    assert.notEqual(keys[0], keys[1]);
    await assertHeard(clientWithTpm(state, security), state.deviceId, 'sas');
  }));

test('another TPM\'s endorsement key in the enrollment means refusal, before any challenge', () =>
  withSecurity(berth.unique('foreign'), async (security, ask) => {
    const registrationId = await ask('getRegistrationId');
    const foreign = Buffer.from(await ask('getEndorsementKey'));
    foreign[foreign.length - 1] ^= 2; // another modulus, still an odd one
    await enroll(registrationId, foreign);
    await assert.rejects(provisioning(security).register(), (err) => err.name === 'InvalidOperationError');
  }));

test('a TPM that nobody enrolled is refused, before any challenge', () =>
  withSecurity(berth.unique('stranger'), async (security) => {
    await assert.rejects(provisioning(security).register(), (err) => err.name === 'InvalidOperationError');
  }));
