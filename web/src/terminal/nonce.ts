/** The page's policy allows a style sheet that a script makes only with the number that stands in the page. xterm.js makes
 * three for each terminal (the size of a letter, the colours, the scroll bar) and has no way to be given the number. */

let done = false;

export function numberStyleSheets(): void {
  if (done) return;
  done = true;
  const nonce = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce ?? "";
  const create = document.createElement.bind(document) as (name: string, options?: ElementCreationOptions) => HTMLElement;
  document.createElement = ((name: string, options?: ElementCreationOptions) => {
    const element = create(name, options);
    if (element instanceof HTMLStyleElement) element.nonce = nonce;
    return element;
  }) as typeof document.createElement;
}
