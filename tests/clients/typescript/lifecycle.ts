// The whole life of a VM with the generated TypeScript client, by a new user: `node built/lifecycle.js URL`.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import createClient from "openapi-fetch";

import type { components, paths } from "./api.js";

type Schemas = components["schemas"];
type Answer<T> = { data?: T; error?: Schemas["Problem"]; response: Response };

const LIMIT = 60_000; // milliseconds for one operation
const PASSWORD = "Correct-Horse-1";
const client = createClient<paths>({ baseUrl: process.argv[2] ?? "" });

/** Returns the body of the answer, or stops if it is a problem. Only a request with `validate_only` gets a Validity. */
function sure<T>(answer: Answer<T>): Exclude<T, Schemas["Validity"]> {
  assert.ok(answer.data !== undefined, JSON.stringify(answer.error));
  return answer.data as Exclude<T, Schemas["Validity"]>;
}

/** Waits until the operation has succeeded. */
async function finish(id: string): Promise<void> {
  for (const end = Date.now() + LIMIT; Date.now() < end; await sleep(100)) {
    const operation = sure(
      await client.GET("/api/v1/operations/{operation_id}", { params: { path: { operation_id: id } } }),
    );
    if (operation.status === "SUCCEEDED") return;
    if (operation.status !== "QUEUED" && operation.status !== "RUNNING") {
      assert.fail(`${operation.action} is ${operation.status}: ${operation.error?.message ?? operation.last_error}`);
    }
  }
  assert.fail(`Operation ${id} has not ended.`);
}

/** Waits for the operation that the answer names, and returns the VM after it. */
async function done(answer: Answer<Schemas["VM"] | Schemas["Validity"]>): Promise<Schemas["VM"]> {
  const vm = sure(answer);
  await finish(vm.operation_id);
  return sure(await client.GET("/api/v1/vms/{vm_id}", { params: { path: { vm_id: vm.id } } }));
}

/** Waits for the operation that the answer to a delete names. */
async function gone(answer: { response: Response; error?: Schemas["Problem"] }): Promise<void> {
  assert.equal(answer.response.status, 204, JSON.stringify(answer.error));
  await finish(answer.response.headers.get("Operation-Location")?.split("/").at(-1) ?? "");
}

async function logIn(): Promise<void> {
  const username = `client-${randomUUID().slice(0, 12)}`;
  const account = { username, email: `${username}@example.com`, password: PASSWORD };
  sure(await client.POST("/api/v1/auth/register", { body: account }));
  const pair = sure(await client.POST("/api/v1/auth/login", { body: { username, password: PASSWORD } }));
  client.use({
    onRequest({ request }) {
      request.headers.set("Authorization", `Bearer ${pair.access_token}`);
      return request;
    },
  });
}

/** Takes every action, without a body where none is needed. */
async function act(vm: Schemas["VM"], larger: string): Promise<void> {
  const params = { path: { vm_id: vm.id } };
  assert.equal((await done(await client.POST("/api/v1/vms/{vm_id}/actions/stop", { params }))).status, "SHUTOFF");
  const refused = await client.POST("/api/v1/vms/{vm_id}/actions/stop", { params });
  assert.equal(refused.error?.code, "invalid_transition");
  assert.ok(refused.error?.allowed_actions?.includes("start"));
  await done(await client.POST("/api/v1/vms/{vm_id}/actions/start", { params }));
  await done(await client.POST("/api/v1/vms/{vm_id}/actions/reboot", { params }));
  await done(await client.POST("/api/v1/vms/{vm_id}/actions/reboot", { params, body: { type: "HARD" } }));
  const resize = { params, body: { flavor_id: larger } };
  assert.equal((await done(await client.POST("/api/v1/vms/{vm_id}/actions/resize", resize))).status, "VERIFY_RESIZE");
  await done(await client.POST("/api/v1/vms/{vm_id}/actions/revert-resize", { params }));
  await done(await client.POST("/api/v1/vms/{vm_id}/actions/resize", resize));
  const kept = await done(await client.POST("/api/v1/vms/{vm_id}/actions/confirm-resize", { params }));
  assert.equal(kept.flavor_id, larger);
  const snapshot = sure(await client.POST("/api/v1/vms/{vm_id}/snapshots", { params, body: { name: "before" } }));
  await finish(snapshot.operation_id);
  const restored = { params: { path: { vm_id: vm.id, snapshot_id: snapshot.id } } };
  await done(await client.POST("/api/v1/vms/{vm_id}/snapshots/{snapshot_id}/restore", restored));
  const changes = { params, body: { name: "renamed", labels: { env: "test", team: null } } };
  const changed = sure(await client.PATCH("/api/v1/vms/{vm_id}", changes));
  assert.deepEqual([changed.name, changed.labels], ["renamed", { env: "test" }]);
}

/** Attaches a volume, and takes it away. */
async function attach(vm: Schemas["VM"]): Promise<void> {
  const volume = sure(await client.POST("/api/v1/volumes", { body: { name: "data", size_gb: 1 } }));
  await finish(volume.operation_id);
  const body = { volume_id: volume.id };
  const attached = sure(
    await client.POST("/api/v1/vms/{vm_id}/volumes", { params: { path: { vm_id: vm.id } }, body }),
  );
  await finish(attached.operation_id);
  const path = { vm_id: vm.id, volume_id: volume.id };
  await gone(await client.DELETE("/api/v1/vms/{vm_id}/volumes/{volume_id}", { params: { path } }));
  await gone(await client.DELETE("/api/v1/volumes/{volume_id}", { params: { path: { volume_id: volume.id } } }));
}

await logIn();
const [small, larger] = sure(await client.GET("/api/v1/flavors")).items;
assert.ok(small && larger);
const labels = { env: "prod", team: "a,b" };
const vm = await done(
  await client.POST("/api/v1/vms", {
    body: { name: "generated", flavor_id: small.id, labels },
    params: { header: { "Idempotency-Key": "generated-1" } },
  }),
);
assert.equal(vm.status, "ACTIVE");
assert.deepEqual(vm.labels, labels);
const found = sure(await client.GET("/api/v1/vms", { params: { query: { labels: ["env=prod"] } } }));
assert.deepEqual(found.items.map((one) => one.id), [vm.id]);
await act(vm, larger.id);
await attach(vm);
await gone(await client.DELETE("/api/v1/vms/{vm_id}", { params: { path: { vm_id: vm.id } } }));
const last = sure(await client.GET("/api/v1/vms/{vm_id}", { params: { path: { vm_id: vm.id } } }));
assert.equal(last.status, "DELETED");
