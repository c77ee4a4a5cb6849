"""The viewer: TypeScript in src/, built into dist/ by Vite. Python here builds it and says where it lies."""
