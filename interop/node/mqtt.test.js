'use strict';
// Devices over MQTT and over MQTT in a WebSocket: each registers with the SDK,
// and then lives on the hub that it was given.

const assert = require('node:assert/strict');
const events = require('node:events');
const net = require('node:net');
const { test } = require('node:test');
const { Client: ServiceClient, Registry } = require('azure-iothub');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Mqtt: ProvisioningMqtt, MqttWs: ProvisioningMqttWs } = require('azure-iot-provisioning-device-mqtt');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const berth = require('./lib/berth');
const { Message } = require('azure-iot-device');
const { selfSigned, issue } = require('./lib/openssl');
const { withKey, withCertificate, assertAssigned, clientWithKey, clientWithCertificate, assertHeard } = require('./lib/devices');

const service = ProvisioningServiceClient.fromConnectionString(berth.serviceConnection);
const registry = Registry.fromConnectionString(berth.hubConnection);
const methods = ServiceClient.fromConnectionString(berth.hubConnection);

const wires = [
  { name: 'MQTT', short: 'mqtt', Provisioning: ProvisioningMqtt, Hub: Mqtt },
  { name: 'MQTT in a WebSocket', short: 'mqttws', Provisioning: ProvisioningMqttWs, Hub: MqttWs },
];

// enrolled returns a new registration ID and the key of its enrollment.
async function enrolled(what, members = {}) {
  const registrationId = berth.unique(what);
  const { responseBody } = await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'symmetricKey' }, ...members });
  return { registrationId, key: responseBody.attestation.symmetricKey.primaryKey };
}

// desired changes the twin of a device as an operator does.
const desired = (deviceId, properties) => registry.updateTwin(deviceId, { properties: { desired: properties } }, '*');

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

  test(`${wire.name}: a device and its operator share a twin`, async (t) => {
    const { registrationId, key } = await enrolled(wire.short + '-twin', { initialTwin: { properties: { desired: { interval: 30 } } } });
    const state = await withKey(registrationId, key, wire.Provisioning).register();
    const client = clientWithKey(state, key, wire.Hub);
    await client.open();
    t.after(() => client.close());
    const twin = await client.getTwin();
    assert.equal(twin.properties.desired.interval, 30);
    assert.equal(twin.properties.desired.$version, 1);

    await new Promise((resolve, reject) => twin.properties.reported.update({ firmware: '1.2', net: { mac: '00:11' } }, (err) => (err ? reject(err) : resolve())));
    const { responseBody: seen } = await registry.getTwin(registrationId);
    assert.deepEqual([seen.properties.reported.firmware, seen.properties.reported.net.mac], ['1.2', '00:11']);
    assert.equal(seen.connectionState, 'Connected');

    const changes = [];
    const told = new events.EventEmitter();
    twin.on('properties.desired', (delta) => { changes.push(delta); told.emit('change'); });
    const first = changes.length ? null : events.once(told, 'change'); // the whole of it, to begin with
    if (first) await first;
    let change = events.once(told, 'change');
    await desired(registrationId, { interval: 5, limits: { high: 80 } });
    await change;
    assert.deepEqual(changes.at(-1), { interval: 5, limits: { high: 80 }, $version: 2 });
    change = events.once(told, 'change');
    await desired(registrationId, { limits: null });
    await change;
    assert.deepEqual(changes.at(-1), { limits: null, $version: 3 });
    assert.equal(twin.properties.desired.limits, undefined);

    await assert.rejects(new Promise((resolve, reject) => twin.properties.reported.update({ big: 'x'.repeat(40000) }, (err) => (err ? reject(err) : resolve()))),
      'reported properties beyond the limit were taken');
  });

  test(`${wire.name}: an operator calls a method of a device, and hears when there is none`, async (t) => {
    const { registrationId, key } = await enrolled(wire.short + '-method');
    const state = await withKey(registrationId, key, wire.Provisioning).register();
    const call = { methodName: 'reboot', payload: { in: 5 }, responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 0 };
    await assert.rejects(methods.invokeDeviceMethod(registrationId, call), (err) => err.name === 'DeviceNotFoundError' || err.response?.statusCode === 404);

    const client = clientWithKey(state, key, wire.Hub);
    await client.open();
    t.after(() => client.close());
    await new Promise((resolve, reject) => {
      client._transport.on('error', reject);
      client.onDeviceMethod('reboot', (request, response) => response.send(207, { heard: request.payload }, () => {}));
      client._enableMethods((err) => (err ? reject(err) : resolve()));
    });
    const { result } = await methods.invokeDeviceMethod(registrationId, call);
    assert.deepEqual(result, { status: 207, payload: { heard: { in: 5 } } });
  });

  test(`${wire.name}: a device with another's key is refused, in words of the service and by its hub`, async () => {
    const honest = await enrolled(wire.short + '-honest');
    const thief = await enrolled(wire.short + '-thief');
    await assert.rejects(withKey(honest.registrationId, thief.key, wire.Provisioning).register(), refused('UnauthorizedError', 401002));
    const state = await withKey(honest.registrationId, honest.key, wire.Provisioning).register();
    await assert.rejects(clientWithKey(state, thief.key, wire.Hub).open(), (err) => err.name === 'UnauthorizedError');
  });
}

test('MQTT: a device whose connection is cut comes back by itself, hears its operator again and loses no message', async (t) => {
  const { registrationId, key } = await enrolled('mqtt-cut');
  const state = await withKey(registrationId, key, ProvisioningMqtt).register();

  // Between the device and its hub lies a network that can be cut.
  const open = new Set();
  const network = net.createServer((near) => {
    const far = net.connect(8883, berth.hub);
    for (const [one, other] of [[near, far], [far, near]]) {
      open.add(one);
      one.on('error', () => {});
      one.on('close', () => { open.delete(one); other.destroy(); });
      one.pipe(other);
    }
  });
  network.listen(0, '127.0.0.1');
  await events.once(network, 'listening');
  t.after(() => network.close());
  const client = clientWithKey({ ...state, assignedHub: `${berth.hub}:${network.address().port}` }, key, Mqtt);
  await client.open();
  t.after(() => client.close());
  const twin = await client.getTwin();
  let heard;
  twin.on('properties.desired.round', (round) => { heard = round; });

  for (let round = 1; round <= 3; round++) {
    for (const socket of open) socket.destroy();
    await client.sendEvent(new Message(`round ${round}`));
    const end = Date.now() + 30000;
    for (let change = 0; ; change++) {
      await desired(registrationId, { round: `${round}.${change}` });
      await new Promise((resolve) => setTimeout(resolve, 200));
      if (heard?.startsWith(`${round}.`)) break;
      assert.ok(Date.now() < end, `in round ${round} the device heard nothing`);
    }
  }
  assert.deepEqual([...new Set((await berth.messages(registrationId)).map((m) => m.body))], ['round 1', 'round 2', 'round 3']);
});
