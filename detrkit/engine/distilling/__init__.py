"""Distillation in a run: opens the teacher, lays out what is learned, and joins the trainer.

opening.py       from a session to a `Distiller`; finds every mistake before a run has a folder
teachers.py      reads the teacher, and puts it to work when the window opens
onnx_teacher.py  an ONNX file as teacher
losses.py        the losses that a configuration names
preflight.py     measures the teacher before the run
gradients.py     gradients and rates of what is trained beside the student
"""
