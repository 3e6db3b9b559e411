'use strict';
// A software TPM behind the port where the vendor's TPM library looks for a
// resource manager when the machine has no chip.

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { scratch, setting } = require('./berth');

const bridgePort = 2323;

// start returns a blank TPM; stop ends it.
async function start(name) {
  const state = path.join(scratch, name);
  fs.mkdirSync(state, { mode: 0o700 });
  const socket = path.join(state, 'socket');
  const children = [];
  const log = path.join(state, 'log');
  const run = (program, args) => {
    const output = fs.openSync(log, 'a');
    const child = spawn(program, args, { stdio: ['ignore', output, output] });
    fs.closeSync(output);
    child.ended = new Promise((resolve) => { child.on('error', resolve); child.on('exit', resolve); });
    children.push(child);
    return child;
  };
  const stop = async () => {
    for (const child of children.reverse()) {
      child.kill('SIGTERM');
      await child.ended;
    }
  };
  try {
    const swtpm = run('swtpm', ['socket', '--tpm2', '--tpmstate', `dir=${state}`, '--server', `type=unixio,path=${socket}`,
      '--flags', 'not-need-init,startup-clear']);
    await until(swtpm, () => fs.existsSync(socket));
    const bridge = run(setting('BERTH_TPMBRIDGE'), ['-swtpm', 'unix:' + socket, '-listen', `127.0.0.1:${bridgePort}`, '-framing', 'rm']);
    await until(bridge, () => accepts(bridgePort));
  } catch (err) {
    await stop();
    err.message += '\n' + fs.readFileSync(log, 'utf8');
    throw err;
  }
  return { stop };
}

// until returns when ready says so, and fails with the process it waits for.
async function until(child, ready) {
  let ended = false;
  child.ended.then(() => { ended = true; });
  const end = Date.now() + 20000;
  while (!await ready()) {
    if (ended) throw new Error(`${child.spawnfile} ended before it was ready`);
    if (Date.now() > end) throw new Error(`${child.spawnfile} was not ready after 20 s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const accepts = (port) => new Promise((resolve) => {
  const probe = net.connect(port, '127.0.0.1', () => { probe.destroy(); resolve(true); });
  probe.on('error', () => resolve(false));
});

module.exports = { start };
