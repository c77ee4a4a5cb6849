"""How an image was generated, as its file says.

generation.py     what is known of how an image was generated
reading.py        prompts and parameters, read from the files of all common tools and written into our own
embedded_text.py  the texts that image files carry
comfyui.py        ComfyUI's graphs
"""
