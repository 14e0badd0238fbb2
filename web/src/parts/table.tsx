/** Tables. On a narrow screen each row becomes a card, with the column's name beside each value. */

import type { ComponentChildren } from "preact";

export interface Column<Row> {
  title: string;
  /** for columns without a visible title */
  hidden?: boolean;
  show: (row: Row) => ComponentChildren;
  class?: string;
}

interface Props<Row> {
  label: string;
  columns: Column<Row>[];
  rows: Row[];
  id: (row: Row) => string;
}

export function Table<Row>({ label, columns, rows, id }: Props<Row>) {
  return (
    <div class="table">
      <table>
        <caption class="hidden">{label}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column.title} scope="col" class={column.class}>
                {column.hidden ? <span class="hidden">{column.title}</span> : column.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={id(row)}>
              {columns.map((column) => (
                <td key={column.title} class={column.class} data-title={column.hidden ? undefined : column.title}>
                  {column.show(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
