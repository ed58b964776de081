/** Imported as text, for another realm. */
declare module "web-streams-polyfill/dist/ponyfill.js" {
  const text: string;
  export default text;
}
