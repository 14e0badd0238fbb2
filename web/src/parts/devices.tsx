/** What `tctl nodes ls` and `show` say of a node, as the page says it. Serial numbers and addresses are the device's words. */

import type { Copy, Node } from "../types";
import { Badge, type Tone, When } from "./basics";

type Standing = Node["status"] | "locked";

const TONES: Record<Standing, Tone> = { online: "good", offline: "dim", pending: "warn", quarantined: "bad", locked: "bad" };

/** A node that a lock keeps people from is seldom online, and its tunnel is not what is wrong with it. */
export function standing(node: Node): Standing {
  return node.locked && (node.status === "online" || node.status === "offline") ? "locked" : node.status;
}

/** "there now", or when it was last. */
function Seen({ there, at }: { there: boolean; at: number | null }) {
  if (there) return <>there now</>;
  return (
    <>
      seen <When at={at} />
    </>
  );
}

function Ends({ at }: { at: number | null }) {
  if (at === null) return <>until it is removed</>;
  return (
    <>
      ends <When at={at} />
    </>
  );
}

/** Its state, since when it is not there, and the lock on it. One that waits, or is quarantined, may be there all the same. */
export function State({ node }: { node: Node }) {
  const state = standing(node);
  // Other clusters do not say where it is connected.
  const there = node.status === "online" || (node.proxies ?? []).length > 0;
  return (
    <>
      <Badge tone={TONES[state]}>{state}</Badge>
      {state !== "online" && (
        <small>
          <Seen there={there} at={node.last_seen} />
        </small>
      )}
      {node.locked && (
        <small class="said">
          {state !== "locked" && "locked, "}
          <Ends at={node.locked.expires} />
          {node.locked.message && `: ${node.locked.message}`}
        </small>
      )}
    </>
  );
}

/** Other devices that have its identity. */
export function Copies({ of }: { of: readonly Copy[] }) {
  return (
    <>
      {of.map((copy) => (
        <small key={copy.id}>
          copy {copy.id} from {copy.peer || "?"}, found <When at={copy.found} />, {copy.split && "leaving, "}
          <Seen there={copy.online} at={copy.last_seen} />
        </small>
      ))}
    </>
  );
}

/** The node that had the serial number of this one before. */
export function Twin({ node }: { node: Node }) {
  const twin = node.same_serial;
  if (!twin) return null;
  return (
    <>
      {twin.name}, {twin.status}
      {twin.status !== "online" && ", "}
      {twin.status !== "online" && <Seen there={false} at={twin.last_seen} />}
    </>
  );
}

/** What an administrator compares with the device before letting it in. */
export function Facts({ node }: { node: Node }) {
  return (
    <dl class="facts">
      <dt>Host key</dt>
      <dd class="mono">{node.fingerprint || "not said"}</dd>
      <dt>Serial number</dt>
      <dd class="mono">{node.serial || "not said"}</dd>
      {node.same_serial && (
        <>
          <dt>It is that of</dt>
          <dd>
            <Twin node={node} />
          </dd>
        </>
      )}
      <dt>From</dt>
      <dd class="mono">{node.peer || node.addresses?.join(", ") || "not said"}</dd>
      <dt>UUID</dt>
      <dd class="mono">{node.uuid}</dd>
    </dl>
  );
}
