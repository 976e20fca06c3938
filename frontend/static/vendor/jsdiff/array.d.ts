/** The types of what we take from jsdiff, which publishes its own for its CommonJS build only. */
export interface Change<T> {
  value: T[];
  count: number;
  added: boolean;
  removed: boolean;
}

export function diffArrays<T>(
  oldArr: readonly T[],
  newArr: readonly T[],
  options?: { maxEditLength?: number; timeout?: number },
): Change<T>[] | undefined;
