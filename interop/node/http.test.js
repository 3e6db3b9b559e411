'use strict';
// What a device can do over HTTPS once it has a hub: send messages, one or many in
// a call, and take those that its operator sent with berth hub send.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { Http: ProvisioningHttp } = require('azure-iot-provisioning-device-http');
const { Http } = require('azure-iot-device-http');
const { Registry } = require('azure-iothub');
const { Message } = require('azure-iot-device');
const berth = require('./lib/berth');
const { assertHeard } = require('./lib/devices');
const { credentials, provisioned } = require('./lib/wires');

const registry = Registry.fromConnectionString(berth.hubConnection);
const wire = { name: 'HTTPS', short: 'https', Provisioning: ProvisioningHttp, Hub: Http };
const pending = async (deviceId) => (await registry.get(deviceId)).responseBody.cloudToDeviceMessageCount;

// receiving polls for messages as fast as the SDK does, one at a time, and keeps them.
async function receiving(t, device) {
  const client = device.client();
  await client.setTransportOptions({ interval: 0.1, drain: false });
  await client.open();
  t.after(() => client.close());
  const got = [];
  client.on('message', (message) => got.push(message));
  const next = async () => {
    await berth.until('a message came', () => got.length > 0);
    return got.shift();
  };
  return { client, next };
}

for (const credential of credentials) {
  const kind = { wire, credential };
  const name = `HTTPS, with ${credential.name}`;

  test(`${name}: a device registers, and its message is at its hub with all properties`, async () => {
    const device = await provisioned(kind, 'telemetry');
    await assertHeard(device.client(), device.id, credential.authType);
  });

  test(`${name}: many messages in one call are at its hub in their order, each with its properties`, async () => {
    const device = await provisioned(kind, 'batch');
    const client = device.client();
    await client.open();
    const batch = [...Array(10).keys()].map((n) => {
      const message = new Message(`reading ${n}`);
      message.properties.add('number', String(n));
      return message;
    });
    await client.sendEventBatch(batch);
    await client.close();
    const heard = await berth.messages(device.id);
    assert.deepEqual(heard.map((m) => [m.body, m.properties.number]), [...Array(10).keys()].map((n) => [`reading ${n}`, String(n)]));
  });

  test(`${name}: a device receives a message with its properties and completes it, once`, async (t) => {
    const device = await provisioned(kind, 'complete');
    await berth.send(device.id, { body: '{"valve":"open"}', 'message-id': 'm 1/2', 'content-type': 'application/json', ack: 'full', property: 'zone=no & no=yes/+%' });
    const { client, next } = await receiving(t, device);
    const message = await next();
    assert.equal(message.data.toString(), '{"valve":"open"}');
    assert.equal(message.messageId, 'm 1/2');
    // Over HTTPS the SDK calls a property by its header's name, and knows nothing of its ack.
    assert.equal(message.properties.getValue('iothub-app-zone'), 'no & no=yes/+%');
    await client.complete(message);
    assert.equal(await pending(device.id), 0);
    await assert.rejects(client.complete(message), (err) => err.response?.statusCode === 412);
  });

  test(`${name}: a message that a device abandons comes again, and one that it rejects does not`, async (t) => {
    const device = await provisioned(kind, 'reject');
    await berth.send(device.id, { body: 'twice' });
    const { client, next } = await receiving(t, device);
    const first = await next();
    await client.abandon(first);
    const again = await next();
    assert.deepEqual([again.data.toString(), again.messageId], ['twice', first.messageId]);
    assert.notEqual(again.lockToken, first.lockToken);
    assert.equal(await pending(device.id), 1);
    await client.reject(again);
    assert.equal(await pending(device.id), 0);
  });
}
