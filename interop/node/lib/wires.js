'use strict';
// The wires and the credentials of devices that stay connected, and such devices.

const assert = require('node:assert/strict');
const { NoRetry } = require('azure-iot-common');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Mqtt: ProvisioningMqtt, MqttWs: ProvisioningMqttWs } = require('azure-iot-provisioning-device-mqtt');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const berth = require('./berth');
const { selfSigned } = require('./openssl');
const { withKey, withCertificate, assertAssigned, clientWithKey, clientWithCertificate } = require('./devices');

const service = ProvisioningServiceClient.fromConnectionString(berth.serviceConnection);

const wires = [
  { name: 'MQTT', short: 'mqtt', Provisioning: ProvisioningMqtt, Hub: Mqtt },
  { name: 'MQTT in a WebSocket', short: 'mqttws', Provisioning: ProvisioningMqttWs, Hub: MqttWs },
];

// enrolled gives the registration ID an enrollment with a key, or a certificate.
async function enrolledWithKey(registrationId, members) {
  const { responseBody } = await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'symmetricKey' }, ...members });
  return responseBody.attestation.symmetricKey.primaryKey;
}
async function enrolledWithCertificate(registrationId, members) {
  const certificate = selfSigned(registrationId);
  const x509 = { clientCertificates: { primary: { certificate: certificate.cert } } };
  await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'x509', x509 }, ...members });
  return certificate;
}

const credentials = [
  { name: 'a key', short: 'key', authType: 'sas', enrolled: enrolledWithKey, registering: withKey, client: clientWithKey },
  { name: 'a certificate', short: 'cert', authType: 'x509', enrolled: enrolledWithCertificate, registering: withCertificate, client: clientWithCertificate },
];

// Every wire with every credential.
const kinds = wires.flatMap((wire) => credentials.map((credential) => ({ wire, credential, name: `${wire.name}, with ${credential.name}` })));

// provisioned makes a device that has registered. Its client() is one for its hub
// that is not open yet, and fails where the SDK would try again if it is impatient.
async function provisioned({ wire, credential }, what, members) {
  const registrationId = berth.unique(`${what}-${wire.short}-${credential.short}`);
  const secret = await credential.enrolled(registrationId, members);
  const state = await credential.registering(registrationId, secret, wire.Provisioning).register();
  assertAssigned(state, registrationId);
  const client = ({ impatient = false } = {}) => {
    const made = credential.client(state, secret, wire.Hub);
    if (impatient) made.setRetryPolicy(new NoRetry());
    return made;
  };
  return { id: state.deviceId, state, secret, client };
}

module.exports = { wires, credentials, kinds, provisioned };
