'use strict';
// The server under test, as interop/run started it, and what an operator can
// see of it. Devices and services use the SDKs; only the telemetry stream is
// read by Berth's own API, because nothing else shows what arrived.

const crypto = require('node:crypto');
const fs = require('node:fs');
const https = require('node:https');
const path = require('node:path');
const { promisify } = require('node:util');
const execFile = promisify(require('node:child_process').execFile);

function setting(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; start this suite with interop/run`);
  return value;
}

const dps = setting('BERTH_DPS');
const hub = setting('BERTH_HUB');
const idScope = setting('BERTH_ID_SCOPE');
const data = setting('BERTH_DATA');
const scratch = setting('BERTH_SCRATCH');
// How the server answers a registration: "at-once" in the answer to the first
// call where it can, "polled" always through an operation.
const answers = setting('BERTH_ANSWERS');

const connection = (name) => fs.readFileSync(path.join(data, name + '.connection'), 'utf8').trim();
const serviceConnection = connection('service');
const hubConnection = connection('hub');

// unique makes a registration ID that no other run of a test has used.
const file = path.basename(process.argv[1], '.test.js');
let made = 0;
const unique = (what) => `node-${file}-${what}-${answers}-${++made}`;

// derivedKey is the key of a device of an enrollment group.
const derivedKey = (groupKey, registrationId) =>
  crypto.createHmac('sha256', Buffer.from(groupKey, 'base64')).update(registrationId).digest('base64');

function serviceToken() {
  const [, policy, key] = /SharedAccessKeyName=(.*);SharedAccessKey=(.*)$/.exec(serviceConnection);
  const expiry = Math.floor(Date.now() / 1000) + 300;
  const signature = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(`${dps}\n${expiry}`).digest('base64');
  return `SharedAccessSignature sr=${dps}&sig=${encodeURIComponent(signature)}&se=${expiry}&skn=${policy}`;
}

// messages returns what a device has sent to the hub, oldest first.
function messages(deviceId) {
  return new Promise((resolve, reject) => {
    https.get(`https://${dps}/berth/v1/hubs/${hub}/messages`, { headers: { Authorization: serviceToken() } }, (response) => {
      let body = '';
      response.on('data', (chunk) => { body += chunk; });
      response.on('error', reject);
      response.on('end', () => {
        if (response.statusCode !== 200) return reject(new Error(`${response.statusCode} ${body}`));
        const lines = body.split('\n').filter(Boolean).map((line) => JSON.parse(line));
        resolve(lines.filter((m) => m.deviceId === deviceId));
      });
    }).on('error', reject);
  });
}

// command runs the operator's command line, with flags by their names.
async function command(words, flags) {
  const named = Object.entries(flags).flatMap(([name, value]) => [value].flat().flatMap((one) => ['--' + name, one]));
  await execFile(setting('BERTH_PROGRAM'), [...words, '--data', data, ...named]);
}

// send puts a message into a device's queue.
const send = (deviceId, flags) => command(['hub', 'send', deviceId], flags);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// until waits for something to be so, and returns it.
async function until(what, so, seconds = 30) {
  for (const end = Date.now() + seconds * 1000; ; await sleep(50)) {
    const result = await so();
    if (result) return result;
    if (Date.now() > end) throw new Error(`not so after ${seconds} s: ${what}`);
  }
}

const ready = () => new Promise((resolve) => {
  https.get(`https://${dps}/readyz`, (response) => { response.resume(); resolve(response.statusCode === 200); })
    .on('error', () => resolve(false));
});

// crash kills the server as power cuts do. interop/inside starts it again on the
// same data, and crash returns when it is ready.
async function crash() {
  const pid = () => fs.readFileSync(setting('BERTH_SERVER_PID'), 'utf8');
  const before = pid();
  process.kill(Number(before), 'SIGKILL');
  await until('the server runs again', async () => pid() !== before && ready());
}

module.exports = { dps, hub, idScope, scratch, answers, serviceConnection, hubConnection, unique, derivedKey, messages, command, send, until, sleep, crash, setting };
