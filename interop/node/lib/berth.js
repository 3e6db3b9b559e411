'use strict';
// The server under test, as interop/run started it, and what an operator can
// see of it. Devices and services use the SDKs; only the telemetry stream is
// read by Berth's own API, because nothing else shows what arrived.

const crypto = require('node:crypto');
const fs = require('node:fs');
const https = require('node:https');
const path = require('node:path');

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
let made = 0;
const unique = (what) => `node-${what}-${answers}-${++made}`;

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

module.exports = { dps, hub, idScope, scratch, answers, serviceConnection, hubConnection, unique, derivedKey, messages, setting };
