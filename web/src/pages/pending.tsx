/** Devices that have joined and wait for an administrator's word, or that came twice. */

import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ask, part } from "../api";
import { Badge, Button, Empty, Head, Labels, Loading, Trouble, When } from "../parts/basics";
import { Ask } from "../parts/dialog";
import { useAsked } from "../parts/asked";
import { Table } from "../parts/table";
import { link } from "../routes";
import type { Node } from "../types";

export function PendingPage(_: PageProps) {
  const { answer, error, reload } = useAsked<{ nodes: Node[] }>("/web/api/v1/nodes", 3000);
  const [asking, setAsking] = useState<{ node: Node; accept: boolean } | null>(null);
  if (!answer) return error ? <Trouble error={error} again={() => void reload()} /> : <Loading />;
  const waiting = answer.nodes.filter((node) => node.status === "pending" || node.status === "quarantined");
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
                </>
              ),
            },
            { title: "State", show: (node) => <Badge tone={node.status === "pending" ? "warn" : "bad"}>{node.status}</Badge> },
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
              title: "Labels",
              show: (node) => (
                <>
                  <Labels of={node.labels} />
                  <Labels of={node.declared_labels} dim />
                </>
              ),
            },
            {
              title: "Actions",
              hidden: true,
              class: "actions",
              show: (node) => (
                <>
                  <Button small kind="main" icon="check" aria-label={`Accept ${node.name}`} onClick={() => setAsking({ node, accept: true })}>
                    Accept
                  </Button>{" "}
                  <Button small icon="close" aria-label={`Reject ${node.name}`} onClick={() => setAsking({ node, accept: false })}>
                    Reject
                  </Button>
                </>
              ),
            },
          ]}
        />
      )}
      {asking && (
        <Ask
          title={`${asking.accept ? "Accept" : "Reject"} ${asking.node.name}?`}
          yes={asking.accept ? "Accept" : "Reject"}
          danger={!asking.accept}
          onClose={() => setAsking(null)}
          act={async () => {
            await ask(`/web/api/v1/nodes/${part(asking.node.uuid)}/${asking.accept ? "accept" : "reject"}`, { method: "POST" });
            setAsking(null);
            await reload();
          }}
        >
          <p>{asking.accept ? "It becomes a node, and people whose roles fit its labels can connect to it." : "It is removed. To come back it has to join again, with a token."}</p>
        </Ask>
      )}
    </>
  );
}
