/** Texts that are part of the program, imported with the type `text`. */
declare module "*.md" {
  const text: string;
  export default text;
}
