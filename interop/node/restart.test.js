'use strict';
// Devices that stay connected while their server is killed and started again, on
// every wire and with every credential: all of them are there at the same time.

const assert = require('node:assert/strict');
const { test, before, after } = require('node:test');
const { Client: ServiceClient, Registry } = require('azure-iothub');
const { Message } = require('azure-iot-device');
const berth = require('./lib/berth');
const { kinds, provisioned } = require('./lib/wires');

const registry = Registry.fromConnectionString(berth.hubConnection);
const operator = ServiceClient.fromConnectionString(berth.hubConnection);

// watched is a device that takes everything it can take, and keeps it.
async function watched(kind) {
  const device = await provisioned(kind, 'life');
  const client = device.client();
  await client.open();
  const d = { ...device, client, kind, messages: [], acknowledged: [] };
  client.on('message', async (message) => {
    await client.complete(message);
    d.messages.push(message.data.toString());
  });
  client.onDeviceMethod('echo', (request, response) => response.send(200, request.payload, () => {}));
  d.twin = await client.getTwin();
  d.twin.on('properties.desired.round', (round) => { d.round = round; });
  return d;
}

// publish sends message after message until it is told to stop, and keeps those
// of which the SDK says that the hub has them.
async function publish(d, stopped) {
  for (let n = 0; !stopped(); n++) {
    const text = `${n}`;
    try {
      await d.client.sendEvent(new Message(text));
      d.acknowledged.push(text);
    } catch {
      await berth.sleep(50); // the application's own business, says the SDK
    }
    await berth.sleep(2);
  }
}

// answers reports whether a method call reaches the device, and its answer the
// operator.
async function answers(d, payload) {
  const call = { methodName: 'echo', payload, responseTimeoutInSeconds: 5, connectTimeoutInSeconds: 0 };
  const answer = await operator.invokeDeviceMethod(d.id, call).catch(() => undefined);
  return answer?.result.payload === payload;
}

const kills = 2;
let devices = [];

before(async () => {
  devices = await Promise.all(kinds.map(watched));
  let stop = false;
  const publishing = devices.map((d) => publish(d, () => stop));
  const more = (count) => {
    const wanted = devices.map((d) => d.acknowledged.length + count);
    return berth.until(`${count} more messages of each device are acknowledged`, () => devices.every((d, i) => d.acknowledged.length >= wanted[i]), 60);
  };
  await more(50);
  for (let i = 0; i < kills; i++) {
    await berth.crash();
    await more(50);
  }
  stop = true;
  await Promise.all(publishing);
});
after(() => Promise.all(devices.map((d) => d.client.close())));

for (const [i, kind] of kinds.entries()) {
  test(`${kind.name}: a device whose server is killed with kill -9 while it publishes comes back by itself, and nothing acknowledged is lost`, async () => {
    const kept = new Set((await berth.messages(devices[i].id)).map((m) => m.body));
    const lost = devices[i].acknowledged.filter((text) => !kept.has(text));
    assert.deepEqual(lost, []);
    assert.ok(devices[i].acknowledged.length >= 50 * (kills + 1));
  });

  test(`${kind.name}: after its server was killed a device answers methods, hears of desired properties, reports, and receives messages`, async () => {
    const d = devices[i];
    await berth.until('it answers', () => answers(d, 'are you there?'));
    await registry.updateTwin(d.id, { properties: { desired: { round: 1 } } }, '*');
    await berth.until('it hears', () => d.round === 1);
    await new Promise((resolve, reject) => { d.twin.properties.reported.update({ back: true }, (err) => (err ? reject(err) : resolve())); });
    assert.equal((await registry.getTwin(d.id)).responseBody.properties.reported.back, true);
    await berth.send(d.id, { body: 'welcome back' });
    await berth.until('it receives', () => d.messages.length > 0);
    assert.deepEqual(d.messages, ['welcome back']);
  });
}
