'use strict';
// A device as Microsoft's SDK makes one: it registers, and then talks to the
// hub it was given with the credential it got.

const assert = require('node:assert/strict');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Http: ProvisioningHttp } = require('azure-iot-provisioning-device-http');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');
const { TpmAuthenticationProvider } = require('azure-iot-security-tpm');
const { Client, Message, X509AuthenticationProvider } = require('azure-iot-device');
const { Http } = require('azure-iot-device-http');
const berth = require('./berth');

// A provisioning is a registration of a device with a key, a certificate or a
// TPM; register() makes it. It goes over HTTPS unless another wire is named.
const provisioning = (security, Wire = ProvisioningHttp) => ProvisioningDeviceClient.create(berth.dps, berth.idScope, new Wire(), security);
const withKey = (registrationId, key, Wire) => provisioning(new SymmetricKeySecurityClient(registrationId, key), Wire);
const withCertificate = (registrationId, certificate, Wire) => provisioning(new X509Security(registrationId, certificate), Wire);

// assertAssigned checks every member of what the device was told.
function assertAssigned(state, registrationId, deviceId = registrationId) {
  assert.equal(state.status, 'assigned');
  assert.equal(state.registrationId, registrationId);
  assert.equal(state.deviceId, deviceId);
  assert.equal(state.assignedHub, berth.hub);
  assert.equal(state.substatus, 'initialAssignment');
  assert.match(Buffer.from(state.etag, 'base64').toString(), /^".+"$/);
  for (const time of [state.createdDateTimeUtc, state.lastUpdatedDateTimeUtc]) {
    assert.match(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z$/);
    assert.ok(Math.abs(Date.parse(time) - Date.now()) < 120000, time);
  }
}

// The three credentials a device can hold after it was assigned.
const clientWithKey = (state, key, Wire = Http) =>
  Client.fromConnectionString(`HostName=${state.assignedHub};DeviceId=${state.deviceId};SharedAccessKey=${key}`, Wire);
const clientWithCertificate = (state, certificate, Wire = Http) =>
  Client.fromAuthenticationProvider(X509AuthenticationProvider.fromX509Options(state.deviceId, state.assignedHub, certificate), Wire);
const clientWithTpm = (state, security) =>
  Client.fromAuthenticationProvider(TpmAuthenticationProvider.fromTpmSecurityClient(state.deviceId, state.assignedHub, security), Http);

// assertHeard sends a message and finds it, whole, in the hub's stream.
async function assertHeard(client, deviceId, authType) {
  const text = JSON.stringify({ deviceId, temperature: 21.5, unit: '°C' });
  const message = new Message(text);
  message.messageId = 'id-of-' + deviceId;
  message.correlationId = 'correlation-of-' + deviceId;
  message.contentType = 'application/json';
  message.contentEncoding = 'utf-8';
  message.properties.add('alarm', 'false');
  await client.open();
  try {
    await client.sendEvent(message);
  } finally {
    await client.close();
  }
  const heard = await berth.messages(deviceId);
  assert.equal(heard.length, 1);
  assert.equal(heard[0].body, text);
  assert.deepEqual(heard[0].properties, { alarm: 'false' });
  const system = heard[0].systemProperties;
  assert.equal(system['message-id'], message.messageId);
  assert.equal(system['correlation-id'], message.correlationId);
  assert.equal(system['content-type'], 'application/json');
  assert.equal(system['content-encoding'], 'utf-8');
  assert.equal(system['connection-device-id'], deviceId);
  assert.equal(JSON.parse(system['connection-auth-method']).type, authType);
}

module.exports = { provisioning, withKey, withCertificate, assertAssigned, clientWithKey, clientWithCertificate, clientWithTpm, assertHeard };
