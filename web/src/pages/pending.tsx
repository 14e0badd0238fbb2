/** Devices that have joined and wait for an administrator's word, or that came twice. */

import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ask, part } from "../api";
import { Badge, Button, Empty, Head, Labels, Loading, Trouble, When } from "../parts/basics";
import { Copies, Facts, State, Twin } from "../parts/devices";
import { Ask } from "../parts/dialog";
import { useAsked } from "../parts/asked";
import { Table } from "../parts/table";
import { link } from "../routes";
import type { Node } from "../types";

type Verb = "accept" | "reject" | "split";

const WORDS: Record<Verb, { title: string; text: string }> = {
  accept: { title: "Accept", text: "It becomes a node, and people whose roles fit its labels can connect to it." },
  reject: { title: "Reject", text: "It is removed. To come back it has to join again, with a token." },
  split: { title: "Split", text: "The first device stays what it is. Each copy becomes a node of its own at its next contact, with a key of its own and without labels." },
};
const ONE = "There is one device, you say, and whatever it shows next counts. Two that go on with one identity are told from each other again.";
const COMPARE = "Compare the fingerprint with the one that the device wrote to its log when it joined. A serial number is the device's word, and proves nothing.";

export function PendingPage(_: PageProps) {
  const { answer, error, reload } = useAsked<{ nodes: Node[] }>("/web/api/v1/nodes", 3000);
  const [asking, setAsking] = useState<{ node: Node; verb: Verb } | null>(null);
  if (!answer) return error ? <Trouble error={error} again={() => void reload()} /> : <Loading />;
  const waiting = answer.nodes.filter((node) => node.status === "pending" || node.status === "quarantined" || copies(node).length > 0);
  return (
    <>
      <Head title="Waiting devices" note={waiting.length ? `${waiting.length} to look at` : undefined} />
      <Trouble error={error} />
      {!waiting.length && (
        <Empty icon="check" title="Nothing waits">
          <p>
            A device that joins with a token marked "an administrator accepts each device" shows here, and so does one whose identity turned up twice.
          </p>
          <a class="button" href={link("tokens")}>
            Join tokens
          </a>
        </Empty>
      )}
      {waiting.length > 0 && (
        <Table
          label="Waiting devices"
          rows={waiting}
          id={(node) => node.uuid}
          columns={[
            {
              title: "Device",
              class: "name",
              show: (node) => (
                <>
                  <strong>{node.name}</strong>
                  <small class="mono">{node.uuid}</small>
                  {node.fingerprint && <small class="mono">{node.fingerprint}</small>}
                  {node.serial && (
                    <small>
                      serial <span class="mono">{node.serial}</span>
                    </small>
                  )}
                  {node.same_serial && (
                    <small>
                      serial of <Twin node={node} />
                    </small>
                  )}
                  <Copies of={copies(node)} />
                  <Labels of={node.labels} />
                  <Labels of={node.declared_labels} dim />
                </>
              ),
            },
            { title: "State", show: (node) => (copies(node).length ? <Badge tone="bad">copied</Badge> : <State node={node} />) },
            {
              title: "Came",
              class: "nowrap",
              show: (node) => (
                <>
                  <When at={node.created} />
                  <small class="mono">{node.peer || node.addresses?.join(", ")}</small>
                </>
              ),
            },
            {
              title: "Actions",
              hidden: true,
              class: "actions",
              show: (node) => (
                <>
                  {copies(node).length > 0 && (
                    <Button small kind="main" aria-label={`Split ${node.name}`} onClick={() => setAsking({ node, verb: "split" })}>
                      Split
                    </Button>
                  )}{" "}
                  <Button small kind={copies(node).length ? undefined : "main"} icon="check" aria-label={`Accept ${node.name}`} onClick={() => setAsking({ node, verb: "accept" })}>
                    Accept
                  </Button>{" "}
                  {node.status === "pending" && (
                    <Button small icon="close" aria-label={`Reject ${node.name}`} onClick={() => setAsking({ node, verb: "reject" })}>
                      Reject
                    </Button>
                  )}
                </>
              ),
            },
          ]}
        />
      )}
      {asking && (
        <Ask
          title={`${WORDS[asking.verb].title} ${asking.node.name}?`}
          yes={WORDS[asking.verb].title}
          danger={asking.verb === "reject"}
          onClose={() => setAsking(null)}
          act={async () => {
            await ask(`/web/api/v1/nodes/${part(asking.node.uuid)}/${asking.verb}`, {
              method: "POST",
              body: asking.verb === "split" ? { copies: true } : {},
            });
            setAsking(null);
            await reload();
          }}
        >
          <p>{asking.verb === "accept" && asking.node.status !== "pending" ? ONE : WORDS[asking.verb].text}</p>
          {asking.verb === "accept" && asking.node.status === "pending" && <Compared node={asking.node} />}
        </Ask>
      )}
    </>
  );
}

/** What to look at before one that waits is let in. */
function Compared({ node }: { node: Node }) {
  const twin = node.same_serial;
  return (
    <>
      <Facts node={node} />
      <p class="hint">{COMPARE}</p>
      {twin && (
        <p class="hint">
          It becomes a node beside {twin.name}. To have it take that one's place: <code>{`tctl nodes accept ${node.name} --replaces ${twin.name}`}</code>
        </p>
      )}
    </>
  );
}

/** Copies that have not been split yet. */
function copies(node: Node) {
  return (node.copies ?? []).filter((copy) => !copy.split);
}
